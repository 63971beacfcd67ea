#pragma once

#include <map>
#include <vector>

#include "scheduler/sequence.h"
#include "scheduler/tenant_ledger.h"

namespace tessera {

// Sequences that wait for a slot and pages: new requests (sequence 0 stands for all n) and
// preempted sequences. Order: priority, then the tenant with the least service, then arrival. Owns
// nothing.
class WaitingQueue {
 public:
  explicit WaitingQueue(TenantLedger* ledger) : ledger_(ledger) {}

  bool empty() const { return size_ == 0; }
  int size() const { return size_; }

  void Insert(Sequence* sequence);
  void Remove(Sequence* sequence);

  // The first in order that is not parked and was not skipped in this step, or null.
  Sequence* Next(uint64_t step) const;

  // The one that has waited too long among those of a worse priority than `best`: of the tenant
  // with the least service, the oldest. Null if there is none.
  Sequence* Overdue(uint64_t step, int best_priority, TimeNs arrived_before) const;

  // Appends all of them in order.
  void List(std::vector<Sequence*>* sequences) const;

 private:
  struct Line {
    TenantId tenant = 0;
    Sequence* front = nullptr;
    Sequence* back = nullptr;
  };
  using Band = std::vector<Line>;  // one line a tenant that waits in it

  static Line* FindLine(Band* band, TenantId tenant);
  Sequence* LeastServed(const Band& band, uint64_t step) const;
  bool GoesFirst(const Sequence& a, const Sequence& b) const;

  TenantLedger* const ledger_;
  std::map<int, Band> bands_;  // by priority
  int size_ = 0;
};

}  // namespace tessera
