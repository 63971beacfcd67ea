#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/step.h"

namespace tessera {

inline constexpr PageId kNoPage = -1;

// Finds pages by the tokens they hold and everything before them.
//
// A full page is indexed under (salt, parent page, tokens): the parent is the indexed page before
// it, so a chain of verified pages is a verified prefix. The hash is only an index; a hit compares
// salt, parent and tokens. A partly filled page can be indexed too; it is never a parent, and is
// found only by FindPartial. A parent is never erased before its children.
//
// All memory is allocated by the constructor.
class PrefixIndex {
 public:
  PrefixIndex(int num_pages, int page_tokens);

  int num_indexed() const { return num_indexed_; }
  bool Contains(PageId page) const { return entries_[page].num_tokens > 0; }
  int num_tokens(PageId page) const { return entries_[page].num_tokens; }
  PageId parent(PageId page) const { return entries_[page].parent; }
  uint64_t salt(PageId page) const { return entries_[page].salt; }
  std::span<const TokenId> tokens(PageId page) const;

  // The indexed full page with these tokens, or kNoPage. REQUIRES: tokens fill a page.
  PageId Find(uint64_t salt, PageId parent, std::span<const TokenId> tokens) const;

  struct PartialMatch {
    PageId page = kNoPage;
    int num_tokens = 0;  // that agree, from the page's first
  };
  // The page under `parent` that begins like `tokens` for longest, among the most recently indexed
  // few.
  PartialMatch FindPartial(uint64_t salt, PageId parent, std::span<const TokenId> tokens) const;

  // REQUIRES: the page is not indexed, 1 to page_tokens tokens, and no equal full page is indexed.
  void Insert(PageId page, uint64_t salt, PageId parent, std::span<const TokenId> tokens);
  // No effect if it is not indexed.
  void Erase(PageId page);

  void CheckInvariants() const;

 private:
  // Two intrusive hash chains: by all tokens (full pages), and by the first one (partial matches).
  struct Link {
    PageId previous = kNoPage;
    PageId next = kNoPage;
    uint32_t bucket = 0;
  };
  struct Entry {
    int32_t num_tokens = 0;  // 0: not indexed
    int32_t num_children = 0;
    PageId parent = kNoPage;
    uint64_t salt = 0;
    Link by_tokens;
    Link by_first;
  };
  using Buckets = std::vector<PageId>;

  uint32_t BucketOf(uint64_t hash) const;
  void LinkIn(Buckets* buckets, Link Entry::*link, PageId page, uint32_t bucket);
  void LinkOut(Buckets* buckets, Link Entry::*link, PageId page);

  const int page_tokens_;
  std::vector<Entry> entries_;   // [num_pages]
  std::vector<TokenId> tokens_;  // [num_pages, page_tokens]
  Buckets by_tokens_;
  Buckets by_first_;
  int num_indexed_ = 0;
};

}  // namespace tessera
