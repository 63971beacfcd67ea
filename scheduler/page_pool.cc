#include "scheduler/page_pool.h"

#include "base/check.h"

namespace tessera {

PagePool::PagePool(int num_pages) : pages_(num_pages) {
  for (PageId page = num_pages - 1; page >= 0; --page) PushFront(page);
}

PageId PagePool::Take() {
  CHECK(front_ >= 0) << "no free page";
  const PageId page = front_;
  Unlink(page);
  pages_[page].num_references = 1;
  return page;
}

void PagePool::Retain(PageId page) {
  if (pages_[page].is_free) Unlink(page);
  ++pages_[page].num_references;
}

void PagePool::Release(PageId page, bool reusable) {
  CHECK_GT(pages_[page].num_references, 0) << "page " << page << " is released twice";
  --pages_[page].num_references;
  FreeIfUnused(page, reusable);
}

void PagePool::Pin(PageId page) {
  if (pages_[page].is_free) Unlink(page);
  ++pages_[page].num_pins;
}

void PagePool::Unpin(PageId page, bool reusable) {
  CHECK_GT(pages_[page].num_pins, 0);
  --pages_[page].num_pins;
  FreeIfUnused(page, reusable);
}

void PagePool::FreeIfUnused(PageId page, bool reusable) {
  if (pages_[page].num_references > 0 || pages_[page].num_pins > 0) return;
  pages_[page].is_reusable = reusable;
  if (reusable) {
    PushBack(page);
    ++num_reusable_;
  } else {
    PushFront(page);
  }
}

void PagePool::Unlink(PageId page) {
  Page& entry = pages_[page];
  CHECK(entry.is_free);
  (entry.previous < 0 ? front_ : pages_[entry.previous].next) = entry.next;
  (entry.next < 0 ? back_ : pages_[entry.next].previous) = entry.previous;
  entry.previous = entry.next = -1;
  entry.is_free = false;
  --num_free_;
  if (entry.is_reusable) --num_reusable_;
  entry.is_reusable = false;
}

void PagePool::PushFront(PageId page) {
  pages_[page].is_free = true;
  pages_[page].previous = -1;
  pages_[page].next = front_;
  (front_ < 0 ? back_ : pages_[front_].previous) = page;
  front_ = page;
  ++num_free_;
}

void PagePool::PushBack(PageId page) {
  pages_[page].is_free = true;
  pages_[page].previous = back_;
  pages_[page].next = -1;
  (back_ < 0 ? front_ : pages_[back_].next) = page;
  back_ = page;
  ++num_free_;
}

void PagePool::CheckInvariants() const {
  int num_linked = 0;
  PageId previous = -1;
  for (PageId page = front_; page >= 0; page = pages_[page].next) {
    CHECK_EQ(pages_[page].previous, previous);
    CHECK(pages_[page].is_free);
    CHECK_LT(num_linked, num_pages()) << "the free list is a ring";
    previous = page;
    ++num_linked;
  }
  CHECK_EQ(back_, previous);
  CHECK_EQ(num_linked, num_free_);
  for (const Page& page : pages_) {
    CHECK(page.num_references >= 0 && page.num_pins >= 0);
    CHECK_EQ(page.is_free, page.num_references == 0 && page.num_pins == 0);
    if (page.is_free) --num_linked;
  }
  CHECK_EQ(num_linked, 0);
}

}  // namespace tessera
