#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/request.h"

namespace tessera {

// The service each tenant has had, as virtual token counters (Sheng et al., "Fairness in serving
// large language models", OSDI 2024). The tenant with the lowest counter goes first. A tenant that
// begins to wait is lifted to the lowest counter among those that wait, so that idleness banks no
// credit.
//
// Between two tenants that have requests of one priority waiting all the time, the service of any
// span of time differs by at most 2 x (costliest prompt + slots x costliest output + 2 x longest
// sequence); tests/scheduler/fairness_test.cc derives and checks it.
//
// A computed prompt token costs 1, a generated one 2; cached and recomputed tokens cost nothing.
class TenantLedger {
 public:
  static constexpr int64_t kPromptTokenCost = 1;
  static constexpr int64_t kOutputTokenCost = 2;

  void StartWaiting(TenantId tenant);
  void StopWaiting(TenantId tenant);
  void ChargePrompt(TenantId tenant, int num_tokens);
  void ChargeOutput(TenantId tenant, int num_tokens);

  int64_t service(TenantId tenant) const { return accounts_[tenant].service; }

 private:
  struct Account {
    int64_t service = 0;
    int num_waiting = 0;
  };

  void Lift(Account* account);

  std::vector<Account> accounts_;  // [tenants seen]
  int64_t last_service_ = 0;       // of the tenant that stopped waiting last
};

}  // namespace tessera
