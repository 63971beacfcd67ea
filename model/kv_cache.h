#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/step.h"

namespace tessera {

// What this process may still allocate: free memory of the machine, capped by its cgroup.
uint64_t AvailableMemoryBytes();

// The memory behind page ids: `num_pages` pages of kPageTokens tokens in every layer. Which
// sequence uses a page is the scheduler's affair; the layout inside one the backend's. Dies before
// the backend.
//
// Keys and values that were not finite are stored as zeros, so a later token would read on as if
// nothing had happened. The cache therefore remembers, for each page, the first such position, and
// IsFaulty tells whether a token's context holds one.
class KvCache {
 public:
  // RESOURCE_EXHAUSTED if the pages need more than available_bytes.
  static absl::StatusOr<KvCache> Create(Backend* backend, const KvSpec& spec, int num_layers,
                                        int num_pages,
                                        uint64_t available_bytes = AvailableMemoryBytes());

  // Bytes of one page in all layers.
  static uint64_t PageBytes(const Backend& backend, const KvSpec& spec, int num_layers);

  const KvSpec& spec() const { return spec_; }
  int num_pages() const { return num_pages_; }
  // A page's layers lie side by side: a page takes up memory, which comes by 2 MB where there are
  // huge pages, in one place and not in as many as there are layers. So layer `index`, as a backend
  // sees it, has its pages at every IndexInLayer.
  std::byte* layer(int index) const { return memory_.As<std::byte>() + index * page_bytes_; }
  PageId IndexInLayer(PageId page) const { return page * num_layers_; }

  // On the device. What it does to faults RecordCopy records, in the order of the steps and before
  // RecordFaults of its own.
  void CopyPage(const PageCopy& copy);
  void RecordCopy(const PageCopy& copy);

  // Records that this step wrote its rows' positions, and which of them were not finite.
  // row_faults: [batch.num_rows()].
  void RecordFaults(const SequenceBatch& batch, std::span<const uint8_t> row_faults);
  // True if a position up to and including `position` of sequence `index` is not finite.
  bool IsFaulty(const SequenceBatch& batch, int index, int position) const;

 private:
  KvCache(Backend* backend, const KvSpec& spec, int num_layers, int num_pages, DeviceBuffer memory);

  void RecordSequence(const SequenceBatch& batch, int index, std::span<const uint8_t> row_faults);
  void SetFirstFault(PageId page, uint8_t offset);

  Backend* backend_;
  KvSpec spec_;
  int num_layers_;
  int num_pages_;
  size_t page_bytes_;  // of one layer
  DeviceBuffer memory_;
  std::vector<uint8_t> first_fault_;  // [num_pages]: offset in the page, kPageTokens for none
  int num_faulty_pages_ = 0;
};

}  // namespace tessera
