#include "kernels/cuda/cuda_weight.h"

#include <limits>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {

CudaWeight::CudaWeight(DType type, DType stored, int64_t rows, int64_t cols)
    : PackedWeight(type, rows, cols) {
  CHECK_LE(rows, int64_t{std::numeric_limits<int>::max()});
  CHECK_LE(cols, int64_t{std::numeric_limits<int>::max()});
  view_.type = stored;
  view_.rows = static_cast<int>(rows);
  view_.cols = static_cast<int>(cols);
  memory_ = DeviceMemory(WeightBytes(view_));
  view_.data = memory_.data();
  image_.resize(memory_.size_bytes());
}

void CudaWeight::Pack(int64_t first_row, int64_t num_rows, const std::byte* data) {
  CHECK_LE(num_packed_ + num_rows, rows()) << "each row is packed once";
  PackWeightRows(view_, type(), first_row, num_rows, data, image_.data());
  num_packed_ += num_rows;
  if (num_packed_ < rows()) return;
  CopyToDevice(memory_.data(), image_.data(), image_.size());
  image_ = {};
}

const WeightView& CudaWeight::view() const {
  CHECK_EQ(num_packed_, rows()) << "rows were packed";
  return view_;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
