#include "scheduler/tenant_ledger.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {

void TenantLedger::StartWaiting(TenantId tenant) {
  if (tenant >= accounts_.size()) accounts_.resize(tenant + size_t{1});
  Account& account = accounts_[tenant];
  if (account.num_waiting == 0) Lift(&account);
  ++account.num_waiting;
}

void TenantLedger::StopWaiting(TenantId tenant) {
  Account& account = accounts_[tenant];
  CHECK_GT(account.num_waiting, 0);
  --account.num_waiting;
  if (account.num_waiting == 0) last_service_ = account.service;
}

void TenantLedger::Lift(Account* account) {
  int64_t lowest = INT64_MAX;
  for (const Account& other : accounts_) {
    if (other.num_waiting > 0) lowest = std::min(lowest, other.service);
  }
  if (lowest == INT64_MAX) lowest = last_service_;
  account->service = std::max(account->service, lowest);
}

void TenantLedger::ChargePrompt(TenantId tenant, int num_tokens) {
  accounts_[tenant].service += kPromptTokenCost * num_tokens;
}

void TenantLedger::ChargeOutput(TenantId tenant, int num_tokens) {
  accounts_[tenant].service += kOutputTokenCost * num_tokens;
}

}  // namespace tessera
