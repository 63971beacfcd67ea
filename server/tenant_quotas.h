#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "scheduler/request.h"
#include "server/api_keys.h"

namespace tessera {

class TenantQuotas;

// What a request takes of its tenant's limits. Dies with the call, which ends when the client has
// read the answer.
class QuotaLease {
 public:
  QuotaLease() = default;
  QuotaLease(TenantQuotas* quotas, std::string tenant, int num_sequences, int64_t prompt_tokens)
      : quotas_(quotas),
        tenant_(std::move(tenant)),
        num_sequences_(num_sequences),
        prompt_tokens_(prompt_tokens) {}
  QuotaLease(QuotaLease&& other) noexcept { *this = std::move(other); }
  QuotaLease& operator=(QuotaLease&& other) noexcept;
  ~QuotaLease();

  // Takes completion tokens off the tenant's minute. No effect without a quota.
  void ChargeCompletion(int64_t num_tokens);

  // Gives back the sequences, when they are finished.
  void EndSequences();

  // Gives everything back, for a request that was turned away after all: it was never admitted.
  void Refund();

 private:
  TenantQuotas* quotas_ = nullptr;
  std::string tenant_;
  int num_sequences_ = 0;
  int64_t prompt_tokens_ = 0;
};

// What each tenant has used of its limits. Rates are token buckets: requests of one second, tokens
// of one minute. What a request will generate is not known when it comes: tokens are charged as
// they are used, and a tenant is refused while it is in debt. Thread-safe; outlives its leases.
class TenantQuotas {
 public:
  struct Use {
    int num_sequences = 1;
    int priority = 0;
    int64_t prompt_tokens = 0;
  };

  // Refuses, as Admit does, what only waiting would help: a tenant that has used up a rate. Charges
  // nothing; for use before the work of reading a request.
  absl::Status CheckRates(const std::string& tenant, const TenantLimits& limits, TimeNs now)
      EXCLUDES_LOCK(mutex_);

  // RESOURCE_EXHAUSTED where the request is past a limit: names it, expected and actual, and tells
  // clients not to retry by themselves. Charges the request otherwise.
  absl::StatusOr<QuotaLease> Admit(const std::string& tenant, const TenantLimits& limits,
                                   const Use& use, TimeNs now) EXCLUDES_LOCK(mutex_);

 private:
  friend class QuotaLease;

  // Fills up at `rate` a second to `capacity`; may be in debt. With a rate of 0, no limit, what is
  // taken is forgotten.
  struct Bucket {
    double level = 0;
    TimeNs filled_at = -1;  // never yet: full

    void FillUp(double rate, double capacity, TimeNs now);
  };
  struct Usage {
    Bucket requests;
    Bucket tokens;
    int num_sequences = 0;
    int num_open = 0;  // leases
  };

  static absl::Status FillUpAndCheck(const std::string& tenant, const TenantLimits& limits,
                                     TimeNs now, Usage* usage);
  void Release(const std::string& tenant, int num_sequences, int num_leases) EXCLUDES_LOCK(mutex_);
  void Charge(const std::string& tenant, int64_t num_tokens) EXCLUDES_LOCK(mutex_);
  void Refund(const std::string& tenant, int64_t prompt_tokens) EXCLUDES_LOCK(mutex_);

  Mutex mutex_;
  // As many as the key files have named since the start.
  std::map<std::string, Usage> usage_ GUARDED_BY(mutex_);
};

}  // namespace tessera
