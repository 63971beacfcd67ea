#pragma once

#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "scheduler/request.h"

namespace tessera {

class TenantTable;

// Keeps a tenant's id its own while a request of it is open.
class TenantLease {
 public:
  TenantLease() = default;
  TenantLease(TenantTable* table, TenantId id) : table_(table), id_(id) {}
  TenantLease(TenantLease&& other) noexcept { *this = std::move(other); }
  TenantLease& operator=(TenantLease&& other) noexcept;
  ~TenantLease();

  TenantId id() const { return id_; }

 private:
  TenantTable* table_ = nullptr;
  TenantId id_ = 0;
};

// Gives tenants' names small ids. Bounded: an id whose tenant has no request open is given to the
// next newcomer, the one longest idle first. Thread-safe; outlives its leases.
class TenantTable {
 public:
  static constexpr size_t kMaxNameBytes = 128;

  explicit TenantTable(int max_tenants);

  // Whether a tenant may be called this: 1 to kMaxNameBytes printable ASCII characters, no space.
  static bool IsName(const std::string& text);

  // INVALID_ARGUMENT for what is no name; RESOURCE_EXHAUSTED while max_tenants others have requests
  // open.
  absl::StatusOr<TenantLease> Acquire(const std::string& name) EXCLUDES_LOCK(mutex_);

  // Empty for an id that no tenant has.
  std::string NameOf(TenantId id) const EXCLUDES_LOCK(mutex_);

 private:
  friend class TenantLease;

  struct Tenant {
    std::string name;
    int num_open = 0;
    std::list<TenantId>::iterator idle_position;  // valid while num_open == 0
  };

  void Release(TenantId id) EXCLUDES_LOCK(mutex_);
  TenantId Open(TenantId id) REQUIRES_LOCK(mutex_);

  const size_t max_tenants_;
  mutable Mutex mutex_;
  std::vector<Tenant> tenants_ GUARDED_BY(mutex_);  // by id
  std::unordered_map<std::string, TenantId> ids_ GUARDED_BY(mutex_);
  std::list<TenantId> idle_ GUARDED_BY(mutex_);  // longest idle first
};

}  // namespace tessera
