#include "scheduler/waiting_queue.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {
namespace {

bool ArrivedBefore(const Sequence& a, const Sequence& b) {
  if (a.owner->ticket != b.owner->ticket) return a.owner->ticket < b.owner->ticket;
  return a.index < b.index;
}

// Of one tenant's requests in one band, a step looks past so many that do not fit: the others' are
// to be looked at too.
constexpr int kMaxBlockedInLine = 4;

// The line's first that may start now.
Sequence* FirstReady(Sequence* sequence, uint64_t step) {
  int num_blocked = 0;
  for (; sequence != nullptr; sequence = sequence->queue_next) {
    const bool was_skipped = sequence->skipped_in_step == step;
    if (!was_skipped && !sequence->parked) return sequence;
    const bool is_blocked = was_skipped && sequence->wait_reason != WaitReason::kSharedPrefix;
    if (is_blocked && ++num_blocked == kMaxBlockedInLine) return nullptr;
  }
  return nullptr;
}

}  // namespace

WaitingQueue::Line* WaitingQueue::FindLine(Band* band, TenantId tenant) {
  const auto line = std::ranges::find(*band, tenant, &Line::tenant);
  return line == band->end() ? nullptr : &*line;
}

void WaitingQueue::Insert(Sequence* sequence) {
  const TenantId tenant = sequence->owner->request.tenant;
  Band& band = bands_[sequence->priority];
  Line* line = FindLine(&band, tenant);
  if (line == nullptr) line = &band.emplace_back(Line{tenant, nullptr, nullptr});
  Sequence* next = nullptr;  // newcomers go to the back, preempted sequences further forward
  Sequence* previous = line->back;
  while (previous != nullptr && ArrivedBefore(*sequence, *previous)) {
    next = previous;
    previous = previous->queue_prev;
  }
  sequence->queue_prev = previous;
  sequence->queue_next = next;
  (previous == nullptr ? line->front : previous->queue_next) = sequence;
  (next == nullptr ? line->back : next->queue_prev) = sequence;
  ledger_->StartWaiting(tenant);
  ++size_;
}

void WaitingQueue::Remove(Sequence* sequence) {
  const TenantId tenant = sequence->owner->request.tenant;
  const auto band = bands_.find(sequence->priority);
  CHECK(band != bands_.end());
  Line* line = FindLine(&band->second, tenant);
  CHECK(line != nullptr);
  Sequence* const previous = sequence->queue_prev;
  Sequence* const next = sequence->queue_next;
  (previous == nullptr ? line->front : previous->queue_next) = next;
  (next == nullptr ? line->back : next->queue_prev) = previous;
  sequence->queue_prev = sequence->queue_next = nullptr;
  if (line->front == nullptr) band->second.erase(band->second.begin() + (line - &band->second[0]));
  if (band->second.empty()) bands_.erase(band);
  ledger_->StopWaiting(tenant);
  --size_;
}

Sequence* WaitingQueue::LeastServed(const Band& band, uint64_t step) const {
  Sequence* best = nullptr;
  for (const Line& line : band) {
    Sequence* const first = FirstReady(line.front, step);
    if (first != nullptr && (best == nullptr || GoesFirst(*first, *best))) best = first;
  }
  return best;
}

bool WaitingQueue::GoesFirst(const Sequence& a, const Sequence& b) const {
  const int64_t service_a = ledger_->service(a.owner->request.tenant);
  const int64_t service_b = ledger_->service(b.owner->request.tenant);
  return service_a != service_b ? service_a < service_b : ArrivedBefore(a, b);
}

Sequence* WaitingQueue::Next(uint64_t step) const {
  for (const auto& [priority, band] : bands_) {
    if (Sequence* const first = LeastServed(band, step)) return first;
  }
  return nullptr;
}

Sequence* WaitingQueue::Overdue(uint64_t step, int best_priority, TimeNs arrived_before) const {
  Sequence* best = nullptr;
  for (auto band = bands_.upper_bound(best_priority); band != bands_.end(); ++band) {
    for (const Line& line : band->second) {
      Sequence* const first = FirstReady(line.front, step);
      if (first == nullptr || first->owner->arrived > arrived_before) continue;
      if (best == nullptr || GoesFirst(*first, *best)) best = first;
    }
  }
  return best;
}

void WaitingQueue::List(std::vector<Sequence*>* sequences) const {
  for (const auto& [priority, band] : bands_) {
    const size_t begin = sequences->size();
    for (const Line& line : band) {
      for (Sequence* s = line.front; s != nullptr; s = s->queue_next) sequences->push_back(s);
    }
    std::sort(sequences->begin() + begin, sequences->end(),
              [this](const Sequence* a, const Sequence* b) { return GoesFirst(*a, *b); });
  }
}

}  // namespace tessera
