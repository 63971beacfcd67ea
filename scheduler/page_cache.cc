#include "scheduler/page_cache.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {

PageCache::PageCache(int num_pages, int page_tokens)
    : page_tokens_(page_tokens), pool_(num_pages), index_(num_pages, page_tokens) {
  copy_sources_.reserve(num_pages);
}

void PageCache::Match(uint64_t salt, std::span<const TokenId> tokens, PrefixMatch* match) const {
  match->pages.clear();
  match->copy_source = kNoPage;
  match->num_copied_tokens = match->num_tokens = match->num_free_among = 0;
  PageId parent = kNoPage;
  while (tokens.size() >= static_cast<size_t>(page_tokens_)) {
    const PageId page = index_.Find(salt, parent, tokens.first(page_tokens_));
    if (page == kNoPage) break;
    match->pages.push_back(page);
    match->num_tokens += page_tokens_;
    match->num_free_among += pool_.is_free(page) ? 1 : 0;
    tokens = tokens.subspan(page_tokens_);
    parent = page;
  }
  const PrefixIndex::PartialMatch partial = index_.FindPartial(salt, parent, tokens);
  match->copy_source = partial.page;
  match->num_copied_tokens = partial.num_tokens;
  match->num_tokens += partial.num_tokens;
}

void PageCache::Hold(const PrefixMatch& match, std::vector<PageId>* table) {
  CHECK(table->empty());
  for (const PageId page : match.pages) pool_.Retain(page);
  *table = match.pages;
}

PageId PageCache::Take() {
  const PageId page = pool_.Take();
  index_.Erase(page);
  return page;
}

void PageCache::Extend(std::vector<PageId>* table) { table->push_back(Take()); }

void PageCache::Share(const std::vector<PageId>& table, std::vector<PageId>* fork) {
  CHECK(fork->empty());
  for (const PageId page : table) pool_.Retain(page);
  fork->assign(table.begin(), table.end());
}

void PageCache::Replace(int index, std::vector<PageId>* table) {
  const PageId own = Take();
  PageId& page = (*table)[index];
  pool_.Release(page, index_.Contains(page));
  page = own;
}

void PageCache::PinCopySource(PageId page) {
  pool_.Pin(page);
  copy_sources_.push_back(page);
}

void PageCache::ReleaseCopySources(size_t count) {
  CHECK_LE(count, copy_sources_.size());
  const auto end = copy_sources_.begin() + static_cast<std::ptrdiff_t>(count);
  for (auto page = copy_sources_.begin(); page != end; ++page) {
    pool_.Unpin(*page, index_.Contains(*page));
  }
  copy_sources_.erase(copy_sources_.begin(), end);
}

void PageCache::Publish(uint64_t salt, int index, std::span<const TokenId> tokens,
                        std::vector<PageId>* table) {
  const PageId parent = index == 0 ? kNoPage : (*table)[index - 1];
  PageId& page = (*table)[index];
  const PageId known = index_.Find(salt, parent, tokens);
  if (known == page) return;
  if (known == kNoPage) {
    index_.Insert(page, salt, parent, tokens);
    return;
  }
  pool_.Retain(known);
  pool_.Release(page, false);
  page = known;
}

void PageCache::Release(uint64_t salt, std::span<const TokenId> tokens, bool publish_tail,
                        std::vector<PageId>* table) {
  if (publish_tail) PublishTail(salt, tokens, *table);
  while (!table->empty()) {
    const PageId page = table->back();
    table->pop_back();
    pool_.Release(page, index_.Contains(page));
  }
}

void PageCache::PublishTail(uint64_t salt, std::span<const TokenId> tokens,
                            const std::vector<PageId>& table) {
  const size_t index = tokens.size() / page_tokens_;
  const std::span<const TokenId> tail = tokens.subspan(index * page_tokens_);
  if (tail.empty()) return;
  const PageId page = table[index];
  if (pool_.references(page) > 1 || index_.Contains(page)) return;
  const PageId parent = index == 0 ? kNoPage : table[index - 1];
  const int num_known = index_.FindPartial(salt, parent, tail).num_tokens;
  if (num_known < static_cast<int>(tail.size())) index_.Insert(page, salt, parent, tail);
}

void PageCache::CheckInvariants() const {
  pool_.CheckInvariants();
  index_.CheckInvariants();
  for (PageId page = 0; page < num_pages(); ++page) {
    if (!index_.Contains(page)) continue;
    const PageId parent = index_.parent(page);
    if (parent != kNoPage && pool_.is_free(parent)) {
      CHECK(pool_.is_free(page)) << "page " << page << " is held but its prefix is not";
    }
    if (index_.num_tokens(page) < page_tokens_) {
      CHECK_EQ(pool_.references(page), 0) << "a partly filled page is indexed and written";
    }
  }
}

}  // namespace tessera
