#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/gemm_weight.h"
#include "kernels/cuda/runtime.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

// A weight in device memory. Rows are packed into an image on the host, which goes to the device
// with the last of them.
class CudaWeight final : public PackedWeight {
 public:
  // stored: StoredType<T>(type).
  CudaWeight(DType type, DType stored, int64_t rows, int64_t cols);

  size_t size_bytes() const override { return memory_.size_bytes(); }
  // As PackWeightRows.
  void Pack(int64_t first_row, int64_t num_rows, const std::byte* data);
  // REQUIRES: every row was packed.
  const WeightView& view() const;

  static const CudaWeight& From(const PackedWeight& weight) {
    return static_cast<const CudaWeight&>(weight);
  }

 private:
  WeightView view_;
  DeviceMemory memory_;
  std::vector<std::byte> image_;  // until the last row came
  int64_t num_packed_ = 0;
};

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
