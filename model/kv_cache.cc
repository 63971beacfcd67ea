#include "model/kv_cache.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tessera {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

// The number behind `field` in a file of lines "field number ..."; kUnlimited if there is none.
uint64_t ReadField(const char* path, const std::string& field) {
  std::ifstream file(path);
  std::string name;
  std::string rest;
  uint64_t value = 0;
  while (file >> name >> value) {
    if (name == field) return value;
    std::getline(file, rest);
  }
  return kUnlimited;
}

// A file of one number; kUnlimited for "max" or a missing file.
uint64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : kUnlimited;
}

uint64_t MachineAvailableBytes() {
  const uint64_t kibibytes = ReadField("/proc/meminfo", "MemAvailable:");
  return kibibytes == kUnlimited ? kUnlimited : kibibytes * 1024;
}

// Page cache that the kernel can drop counts as free.
uint64_t CgroupAvailableBytes() {
  const uint64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  uint64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
  const uint64_t reclaimable = ReadField("/sys/fs/cgroup/memory.stat", "inactive_file");
  if (reclaimable != kUnlimited) used -= std::min(used, reclaimable);
  return limit > used ? limit - used : 0;
}

}  // namespace

uint64_t AvailableMemoryBytes() {
  return std::min(MachineAvailableBytes(), CgroupAvailableBytes());
}

uint64_t KvCache::PageBytes(const Backend& backend, const KvSpec& spec, int num_layers) {
  return uint64_t{backend.KvPageBytes(spec)} * static_cast<uint64_t>(num_layers);
}

absl::StatusOr<KvCache> KvCache::Create(Backend* backend, const KvSpec& spec, int num_layers,
                                        int num_pages, uint64_t available_bytes) {
  const uint64_t page_bytes = PageBytes(*backend, spec, num_layers);
  if (static_cast<uint64_t>(num_pages) > available_bytes / page_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV cache: expected memory for ", num_pages, " pages of ", page_bytes, " bytes, got ",
        available_bytes, " bytes, enough for ", available_bytes / page_bytes, " pages"));
  }
  constexpr int64_t kMaxIndices = std::numeric_limits<PageId>::max();
  if (int64_t{num_pages} * num_layers > kMaxIndices) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV cache: expected pages x layers of at most ", kMaxIndices, ", got ",
                     num_pages, " x ", num_layers));
  }
  return KvCache(backend, spec, num_layers, num_pages,
                 backend->Allocate(page_bytes * static_cast<uint64_t>(num_pages)));
}

KvCache::KvCache(Backend* backend, const KvSpec& spec, int num_layers, int num_pages,
                 DeviceBuffer memory)
    : backend_(backend),
      spec_(spec),
      num_layers_(num_layers),
      num_pages_(num_pages),
      page_bytes_(backend->KvPageBytes(spec)),
      memory_(std::move(memory)),
      first_fault_(static_cast<size_t>(num_pages), uint8_t{kPageTokens}) {}

void KvCache::CopyPage(const PageCopy& copy) {
  CHECK(copy.from >= 0 && copy.from < num_pages_) << "page " << copy.from << " of " << num_pages_;
  CHECK(copy.to >= 0 && copy.to < num_pages_) << "page " << copy.to << " of " << num_pages_;
  CHECK(copy.num_tokens >= 0 && copy.num_tokens <= kPageTokens) << copy.num_tokens << " tokens";
  for (int i = 0; i < num_layers_; ++i) {
    backend_->CopyPage(spec_, layer(i), IndexInLayer(copy.from), IndexInLayer(copy.to),
                       copy.num_tokens);
  }
}

void KvCache::RecordCopy(const PageCopy& copy) {
  const uint8_t fault = first_fault_[copy.from];
  SetFirstFault(copy.to, fault < copy.num_tokens ? fault : uint8_t{kPageTokens});
}

void KvCache::RecordFaults(const SequenceBatch& batch, std::span<const uint8_t> row_faults) {
  const bool has_new_fault =
      std::find(row_faults.begin(), row_faults.end(), uint8_t{1}) != row_faults.end();
  if (!has_new_fault && num_faulty_pages_ == 0) return;
  for (int i = 0; i < batch.num_sequences(); ++i) RecordSequence(batch, i, row_faults);
}

void KvCache::RecordSequence(const SequenceBatch& batch, int index,
                             std::span<const uint8_t> row_faults) {
  const int first_row = batch.query_starts[index];
  const int num_rows = batch.query_starts[index + 1] - first_row;
  const int first_position = batch.kv_lengths[index] - num_rows;
  const auto pages = batch.page_ids.subspan(batch.page_starts[index]);
  for (int i = 0; i < num_rows; ++i) {
    const PageId page = pages[(first_position + i) / kPageTokens];
    const auto offset = static_cast<uint8_t>((first_position + i) % kPageTokens);
    if (row_faults[first_row + i] != 0) {
      SetFirstFault(page, std::min(first_fault_[page], offset));
    } else if (first_fault_[page] >= offset) {
      SetFirstFault(page, uint8_t{kPageTokens});  // what was at or behind the new row is gone
    }
  }
}

void KvCache::SetFirstFault(PageId page, uint8_t offset) {
  num_faulty_pages_ += (offset < kPageTokens) - (first_fault_[page] < kPageTokens);
  first_fault_[page] = offset;
}

bool KvCache::IsFaulty(const SequenceBatch& batch, int index, int position) const {
  if (num_faulty_pages_ == 0) return false;
  const auto pages = batch.page_ids.subspan(batch.page_starts[index]);
  for (int begin = 0; begin <= position; begin += kPageTokens) {
    const int offset = first_fault_[pages[begin / kPageTokens]];
    if (offset < kPageTokens && begin + offset <= position) return true;
  }
  return false;
}

}  // namespace tessera
