#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/page_pool.h"
#include "scheduler/prefix_index.h"

namespace tessera {

// What the prefix cache holds of a sequence's tokens.
struct PrefixMatch {
  std::vector<PageId> pages;     // full pages, in order
  PageId copy_source = kNoPage;  // a page that begins like the next one
  int num_copied_tokens = 0;     // of copy_source
  int num_tokens = 0;            // full pages and copied tokens together
  int num_free_among = 0;  // of `pages`, those no sequence holds: taking them lessens num_free
};

// The KV pages of all sequences: pool and prefix index together. A page table is a vector of pages.
//
// Invariant: every indexed page's parent is indexed, and is held, or was used last, no earlier than
// its children. So a table that holds a page holds its whole prefix, and tails are reused first.
class PageCache {
 public:
  PageCache(int num_pages, int page_tokens);

  int num_pages() const { return pool_.num_pages(); }
  int num_free() const { return pool_.num_free(); }
  int num_cached() const { return pool_.num_reusable(); }
  int PagesFor(int num_tokens) const { return (num_tokens + page_tokens_ - 1) / page_tokens_; }
  bool is_shared(PageId page) const { return pool_.references(page) > 1; }

  // Looks up tokens, all of which the caller would reuse. Takes nothing. Overwrites *match.
  void Match(uint64_t salt, std::span<const TokenId> tokens, PrefixMatch* match) const;

  // Puts the match's full pages into the empty table.
  void Hold(const PrefixMatch& match, std::vector<PageId>* table);
  // Appends a page of its own. REQUIRES: num_free() > 0.
  void Extend(std::vector<PageId>* table);
  // Appends a table's pages to the empty table of a fork.
  void Share(const std::vector<PageId>& table, std::vector<PageId>* fork);
  // Replaces the table's page by one of its own. REQUIRES: num_free() > 0.
  void Replace(int index, std::vector<PageId>* table);

  // Keeps a page's contents until ReleaseCopySources, whoever lets go of it.
  void PinCopySource(PageId page);
  // Of the pages pinned first.
  void ReleaseCopySources(size_t count);

  // Makes the table's page `index`, filled with `tokens`, known to others. Where an equal page is
  // known already, the table takes that one instead and gives its own back.
  void Publish(uint64_t salt, int index, std::span<const TokenId> tokens,
               std::vector<PageId>* table);

  // Empties the table, tail first. `tokens` are those stored in its pages; where the last page is
  // only partly filled, and this was its last holder, it stays known for copying (publish_tail).
  void Release(uint64_t salt, std::span<const TokenId> tokens, bool publish_tail,
               std::vector<PageId>* table);

  const PagePool& pool() const { return pool_; }
  const PrefixIndex& index() const { return index_; }
  void CheckInvariants() const;

 private:
  PageId Take();
  void PublishTail(uint64_t salt, std::span<const TokenId> tokens,
                   const std::vector<PageId>& table);

  const int page_tokens_;
  PagePool pool_;
  PrefixIndex index_;
  std::vector<PageId> copy_sources_;
};

}  // namespace tessera
