#include "server/tenant_quotas.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "server/status_details.h"

namespace tessera {
namespace {

absl::Status Exceeded(const std::string& tenant, const std::string& limit,
                      const std::string& expected, const std::string& actual) {
  return QuotaExceeded(limit, absl::StrCat("quota of tenant ", tenant, ": ", limit, ": expected ",
                                           expected, ", got ", actual));
}

// Answers that are finished and not read yet are no sequences any more, but are held in memory. A
// client that reads has none for long.
int64_t MostOpen(const TenantLimits& limits) {
  return 2 * int64_t{limits.concurrent_sequences} + 8;
}

std::string InSeconds(double seconds) {
  return absl::StrCat("one more; allowed again in ", std::ceil(seconds * 10) / 10, " s");
}

}  // namespace

QuotaLease& QuotaLease::operator=(QuotaLease&& other) noexcept {
  std::swap(quotas_, other.quotas_);
  std::swap(tenant_, other.tenant_);
  std::swap(num_sequences_, other.num_sequences_);
  std::swap(prompt_tokens_, other.prompt_tokens_);
  return *this;
}

QuotaLease::~QuotaLease() {
  if (quotas_ != nullptr) quotas_->Release(tenant_, num_sequences_, 1);
}

void QuotaLease::EndSequences() {
  if (quotas_ != nullptr) quotas_->Release(tenant_, std::exchange(num_sequences_, 0), 0);
}

void QuotaLease::ChargeCompletion(int64_t num_tokens) {
  if (quotas_ != nullptr) quotas_->Charge(tenant_, num_tokens);
}

void QuotaLease::Refund() {
  if (quotas_ != nullptr) quotas_->Refund(tenant_, prompt_tokens_);
  *this = QuotaLease();
}

void TenantQuotas::Bucket::FillUp(double rate, double capacity, TimeNs now) {
  const double seconds = static_cast<double>(now - filled_at) * 1e-9;
  level = filled_at < 0 ? capacity : std::min(capacity, level + rate * seconds);
  filled_at = rate > 0 ? now : -1;
}

absl::Status TenantQuotas::FillUpAndCheck(const std::string& tenant, const TenantLimits& limits,
                                          TimeNs now, Usage* usage) {
  const double token_rate = limits.tokens_per_minute / 60;
  usage->tokens.FillUp(token_rate, limits.tokens_per_minute, now);
  if (token_rate > 0 && usage->tokens.level <= 0) {
    return Exceeded(tenant, "tokens_per_minute", absl::StrCat("at most ", limits.tokens_per_minute),
                    InSeconds(-usage->tokens.level / token_rate));
  }
  const double request_rate = limits.requests_per_second;
  usage->requests.FillUp(request_rate, std::max(1.0, request_rate), now);
  if (request_rate > 0 && usage->requests.level < 1) {
    return Exceeded(tenant, "requests_per_second", absl::StrCat("at most ", request_rate),
                    InSeconds((1 - usage->requests.level) / request_rate));
  }
  return absl::OkStatus();
}

absl::Status TenantQuotas::CheckRates(const std::string& tenant, const TenantLimits& limits,
                                      TimeNs now) {
  MutexLock lock(&mutex_);
  return FillUpAndCheck(tenant, limits, now, &usage_[tenant]);
}

absl::StatusOr<QuotaLease> TenantQuotas::Admit(const std::string& tenant,
                                               const TenantLimits& limits, const Use& use,
                                               TimeNs now) {
  if (use.priority < limits.most_urgent_priority) {
    return Exceeded(tenant, "most_urgent_priority",
                    absl::StrCat("priority ", limits.most_urgent_priority, " or above"),
                    absl::StrCat(use.priority));
  }
  MutexLock lock(&mutex_);
  Usage& usage = usage_[tenant];
  const int num_sequences = usage.num_sequences + use.num_sequences;
  if (limits.concurrent_sequences > 0 && num_sequences > limits.concurrent_sequences) {
    return Exceeded(tenant, "concurrent_sequences",
                    absl::StrCat("at most ", limits.concurrent_sequences),
                    absl::StrCat(num_sequences));
  }
  if (limits.concurrent_sequences > 0 && usage.num_open >= MostOpen(limits)) {
    return Exceeded(tenant, "concurrent_sequences",
                    absl::StrCat("at most ", MostOpen(limits), " answers to be made or read"),
                    absl::StrCat(usage.num_open + 1));
  }
  RETURN_IF_ERROR(FillUpAndCheck(tenant, limits, now, &usage));
  usage.requests.level -= 1;
  usage.tokens.level -= static_cast<double>(use.prompt_tokens);
  usage.num_sequences = num_sequences;
  ++usage.num_open;
  return QuotaLease(this, tenant, use.num_sequences, use.prompt_tokens);
}

void TenantQuotas::Release(const std::string& tenant, int num_sequences, int num_leases) {
  MutexLock lock(&mutex_);
  Usage& usage = usage_[tenant];
  usage.num_sequences -= num_sequences;
  usage.num_open -= num_leases;
}

void TenantQuotas::Charge(const std::string& tenant, int64_t num_tokens) {
  MutexLock lock(&mutex_);
  usage_[tenant].tokens.level -= static_cast<double>(num_tokens);
}

// A bucket that this leaves too full is cut back to its capacity when it is next looked at.
void TenantQuotas::Refund(const std::string& tenant, int64_t prompt_tokens) {
  MutexLock lock(&mutex_);
  usage_[tenant].requests.level += 1;
  usage_[tenant].tokens.level += static_cast<double>(prompt_tokens);
}

}  // namespace tessera
