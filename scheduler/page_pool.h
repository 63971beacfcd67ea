#pragma once

#include <cstdint>
#include <vector>

#include "model/step.h"

namespace tessera {

// Hands out the ids of fixed-size KV pages. Knows nothing of the memory behind them.
//
// A page is free exactly when it has neither references (tables that hold it) nor pins (copies that
// still read it). Free pages form one intrusive list: blank pages at the front, taken first; pages
// that still hold a reusable prefix behind them, the least recently used first.
class PagePool {
 public:
  explicit PagePool(int num_pages);

  int num_pages() const { return static_cast<int>(pages_.size()); }
  int num_free() const { return num_free_; }
  int num_reusable() const { return num_reusable_; }  // of those, released as reusable
  int references(PageId page) const { return pages_[page].num_references; }
  bool is_free(PageId page) const { return pages_[page].is_free; }

  // Takes the free page that is reused first, with one reference. REQUIRES: num_free() > 0.
  PageId Take();
  void Retain(PageId page);
  // `reusable`: the page holds a prefix worth keeping.
  void Release(PageId page, bool reusable);

  // A pin keeps the page's contents for a copy without counting as a holder.
  void Pin(PageId page);
  void Unpin(PageId page, bool reusable);

  // Aborts unless the list and the counts agree.
  void CheckInvariants() const;

 private:
  struct Page {
    int32_t num_references = 0;
    int32_t num_pins = 0;
    PageId previous = -1;
    PageId next = -1;
    bool is_free = false;
    bool is_reusable = false;
  };

  void Unlink(PageId page);
  void PushFront(PageId page);
  void PushBack(PageId page);
  void FreeIfUnused(PageId page, bool reusable);

  std::vector<Page> pages_;
  PageId front_ = -1;
  PageId back_ = -1;
  int num_free_ = 0;
  int num_reusable_ = 0;
};

}  // namespace tessera
