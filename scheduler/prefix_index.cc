#include "scheduler/prefix_index.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "scheduler/token_hash.h"

namespace tessera {
namespace {

constexpr int kMaxPartialCandidates = 16;

uint64_t HashOf(uint64_t salt, PageId parent, std::span<const TokenId> tokens) {
  uint64_t hash = MixHash(salt, static_cast<uint64_t>(parent));
  for (const TokenId token : tokens) hash = MixHash(hash, static_cast<uint64_t>(token));
  return hash;
}

int CommonLength(std::span<const TokenId> a, std::span<const TokenId> b) {
  const size_t length = std::min(a.size(), b.size());
  const auto end = std::mismatch(a.begin(), a.begin() + length, b.begin()).first;
  return static_cast<int>(end - a.begin());
}

}  // namespace

PrefixIndex::PrefixIndex(int num_pages, int page_tokens)
    : page_tokens_(page_tokens),
      entries_(num_pages),
      tokens_(static_cast<size_t>(num_pages) * page_tokens),
      by_tokens_(std::bit_ceil(static_cast<size_t>(num_pages) * 2), kNoPage),
      by_first_(by_tokens_) {}

std::span<const TokenId> PrefixIndex::tokens(PageId page) const {
  return {tokens_.data() + static_cast<size_t>(page) * page_tokens_,
          static_cast<size_t>(entries_[page].num_tokens)};
}

uint32_t PrefixIndex::BucketOf(uint64_t hash) const {
  return static_cast<uint32_t>(hash & (by_tokens_.size() - 1));
}

PageId PrefixIndex::Find(uint64_t salt, PageId parent, std::span<const TokenId> tokens) const {
  PageId page = by_tokens_[BucketOf(HashOf(salt, parent, tokens))];
  while (page != kNoPage) {
    const Entry& entry = entries_[page];
    if (entry.parent == parent && entry.salt == salt &&
        std::ranges::equal(this->tokens(page), tokens)) {
      return page;
    }
    page = entry.by_tokens.next;
  }
  return kNoPage;
}

PrefixIndex::PartialMatch PrefixIndex::FindPartial(uint64_t salt, PageId parent,
                                                   std::span<const TokenId> tokens) const {
  PartialMatch best;
  if (tokens.empty()) return best;
  PageId page = by_first_[BucketOf(HashOf(salt, parent, tokens.first(1)))];
  for (int i = 0; i < kMaxPartialCandidates && page != kNoPage; ++i) {
    const Entry& entry = entries_[page];
    if (entry.parent == parent && entry.salt == salt) {
      const int num_tokens = CommonLength(this->tokens(page), tokens);
      if (num_tokens > best.num_tokens) best = {page, num_tokens};
    }
    page = entry.by_first.next;
  }
  return best;
}

void PrefixIndex::Insert(PageId page, uint64_t salt, PageId parent,
                         std::span<const TokenId> tokens) {
  CHECK(!Contains(page));
  CHECK(!tokens.empty() && tokens.size() <= static_cast<size_t>(page_tokens_));
  CHECK(parent == kNoPage || entries_[parent].num_tokens == page_tokens_);
  Entry& entry = entries_[page];
  entry.num_tokens = static_cast<int32_t>(tokens.size());
  entry.parent = parent;
  entry.salt = salt;
  std::ranges::copy(tokens, tokens_.begin() + static_cast<size_t>(page) * page_tokens_);
  LinkIn(&by_tokens_, &Entry::by_tokens, page, BucketOf(HashOf(salt, parent, tokens)));
  LinkIn(&by_first_, &Entry::by_first, page, BucketOf(HashOf(salt, parent, tokens.first(1))));
  if (parent != kNoPage) ++entries_[parent].num_children;
  ++num_indexed_;
}

void PrefixIndex::Erase(PageId page) {
  if (!Contains(page)) return;
  Entry& entry = entries_[page];
  CHECK_EQ(entry.num_children, 0) << "page " << page << " is erased before its children";
  LinkOut(&by_tokens_, &Entry::by_tokens, page);
  LinkOut(&by_first_, &Entry::by_first, page);
  if (entry.parent != kNoPage) --entries_[entry.parent].num_children;
  entry = {};
  --num_indexed_;
}

void PrefixIndex::LinkIn(Buckets* buckets, Link Entry::*link, PageId page, uint32_t bucket) {
  PageId& front = (*buckets)[bucket];
  entries_[page].*link = {kNoPage, front, bucket};
  if (front != kNoPage) (entries_[front].*link).previous = page;
  front = page;
}

void PrefixIndex::LinkOut(Buckets* buckets, Link Entry::*link, PageId page) {
  const Link out = entries_[page].*link;
  (out.previous == kNoPage ? (*buckets)[out.bucket] : (entries_[out.previous].*link).next) =
      out.next;
  if (out.next != kNoPage) (entries_[out.next].*link).previous = out.previous;
}

void PrefixIndex::CheckInvariants() const {
  std::vector<int32_t> num_children(entries_.size());
  int num_indexed = 0;
  for (const Entry& entry : entries_) {
    if (entry.num_tokens == 0) continue;
    ++num_indexed;
    if (entry.parent == kNoPage) continue;
    const Entry& parent = entries_[entry.parent];
    CHECK_EQ(parent.num_tokens, page_tokens_) << "an indexed page's parent is not";
    CHECK_EQ(parent.salt, entry.salt);
    ++num_children[entry.parent];
  }
  CHECK_EQ(num_indexed, num_indexed_);
  for (size_t page = 0; page < entries_.size(); ++page) {
    CHECK_EQ(num_children[page], entries_[page].num_children);
    if (entries_[page].num_tokens < page_tokens_) continue;
    const PageId id = static_cast<PageId>(page);
    CHECK_EQ(Find(entries_[page].salt, entries_[page].parent, tokens(id)), id)
        << "two indexed pages are equal";
  }
}

}  // namespace tessera
