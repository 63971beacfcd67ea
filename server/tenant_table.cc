#include "server/tenant_table.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/status_details.h"

namespace tessera {
namespace {

constexpr std::chrono::milliseconds kRetryDelay{1000};

}  // namespace

TenantLease& TenantLease::operator=(TenantLease&& other) noexcept {
  std::swap(table_, other.table_);
  std::swap(id_, other.id_);
  return *this;
}

TenantLease::~TenantLease() {
  if (table_ != nullptr) table_->Release(id_);
}

TenantTable::TenantTable(int max_tenants) : max_tenants_(max_tenants) { CHECK_GT(max_tenants, 0); }

bool TenantTable::IsName(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

absl::StatusOr<TenantLease> TenantTable::Acquire(const std::string& name) {
  if (!IsName(name)) {
    return InvalidField("tenant",
                        absl::StrCat("1 to ", kMaxNameBytes, " printable ASCII characters"),
                        absl::StrCat(name.size(), " bytes"));
  }
  MutexLock lock(&mutex_);
  const auto found = ids_.find(name);
  if (found != ids_.end()) return TenantLease(this, Open(found->second));
  if (tenants_.size() < max_tenants_) {
    idle_.push_front(static_cast<TenantId>(tenants_.size()));
    tenants_.push_back({name, 0, idle_.begin()});
  } else if (idle_.empty()) {
    return Overloaded("tenants",
                      absl::StrCat("tenants with open requests: expected at most ", max_tenants_,
                                   ", got one more"),
                      kRetryDelay);
  } else {
    ids_.erase(tenants_[idle_.front()].name);
    tenants_[idle_.front()].name = name;
  }
  const TenantId id = idle_.front();
  ids_.emplace(name, id);
  return TenantLease(this, Open(id));
}

TenantId TenantTable::Open(TenantId id) {
  Tenant& tenant = tenants_[id];
  if (tenant.num_open++ == 0) idle_.erase(tenant.idle_position);
  return id;
}

void TenantTable::Release(TenantId id) {
  MutexLock lock(&mutex_);
  Tenant& tenant = tenants_[id];
  if (--tenant.num_open == 0) tenant.idle_position = idle_.insert(idle_.end(), id);
}

std::string TenantTable::NameOf(TenantId id) const {
  MutexLock lock(&mutex_);
  return id < tenants_.size() ? tenants_[id].name : "";
}

}  // namespace tessera
