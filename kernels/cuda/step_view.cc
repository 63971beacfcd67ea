#include "kernels/cuda/step_view.h"

#include <algorithm>
#include <span>

#include "base/check.h"

namespace tessera::TESSERA_CUDA_NAMESPACE {
namespace {

size_t ArrayBytes(size_t size) { return (size * sizeof(int32_t) + 15) / 16 * 16; }

// An array's place on the host, to be filled, and on the device.
struct Array {
  int32_t* host;
  const int32_t* device;
};

// Hands out arrays one after another, each at a multiple of 16 bytes.
class Packer {
 public:
  Packer(void* host, const void* device)
      : host_(static_cast<char*>(host)), device_(static_cast<const char*>(device)) {}

  Array Reserve(size_t size) {
    const size_t begin = used_bytes_;
    used_bytes_ += ArrayBytes(size);
    return {reinterpret_cast<int32_t*>(host_ + begin),
            reinterpret_cast<const int32_t*>(device_ + begin)};
  }

  // The values, then num_padding zeros.
  const int32_t* Append(std::span<const int32_t> values, size_t num_padding = 0) {
    const Array array = Reserve(values.size() + num_padding);
    std::fill_n(std::copy(values.begin(), values.end(), array.host), num_padding, 0);
    return array.device;
  }

  size_t used_bytes() const { return used_bytes_; }

 private:
  char* const host_;
  const char* const device_;
  size_t used_bytes_ = 0;
};

void FillRows(const SequenceBatch& batch, int num_rows, int32_t* sequences, int32_t* positions) {
  for (int sequence = 0; sequence < batch.num_sequences(); ++sequence) {
    const auto i = static_cast<size_t>(sequence);
    const int32_t end = batch.query_starts[i + 1];
    for (int32_t row = batch.query_starts[i]; row < end; ++row) {
      sequences[row] = sequence;
      positions[row] = batch.kv_lengths[i] - (end - row);
    }
  }
  std::fill(sequences + batch.num_rows(), sequences + num_rows, -1);
  std::fill(positions + batch.num_rows(), positions + num_rows, 0);
}

}  // namespace

size_t PackedStepBytes(const StepRows& step, const StepPadding& padding) {
  const SequenceBatch& batch = *step.batch;
  const size_t num_rows = step.tokens.size() + static_cast<size_t>(padding.num_rows);
  const size_t num_selected = step.selected.size() + static_cast<size_t>(padding.num_selected);
  return 3 * ArrayBytes(num_rows) + ArrayBytes(num_selected) + ArrayBytes(num_rows + 1) +
         ArrayBytes(batch.page_ids.size());
}

// The page ids come last, since their number is not that of any rows.
StepView PackStep(const StepRows& step, const StepPadding& padding, void* host,
                  const void* device) {
  const SequenceBatch& batch = *step.batch;
  CHECK_EQ(step.tokens.size(), static_cast<size_t>(batch.num_rows()));
  CHECK_LE(batch.num_sequences(), batch.num_rows());
  Packer packer(host, device);
  StepView view;
  view.num_rows = batch.num_rows() + padding.num_rows;
  view.num_selected = static_cast<int>(step.selected.size()) + padding.num_selected;
  const auto num_rows = static_cast<size_t>(view.num_rows);
  const Array sequences = packer.Reserve(num_rows);
  const Array positions = packer.Reserve(num_rows);
  FillRows(batch, view.num_rows, sequences.host, positions.host);
  view.row_sequences = sequences.device;
  view.row_positions = positions.device;
  view.tokens = packer.Append(step.tokens, num_rows - step.tokens.size());
  view.selected = packer.Append(step.selected, static_cast<size_t>(padding.num_selected));
  view.page_starts = packer.Append(batch.page_starts, num_rows + 1 - batch.page_starts.size());
  view.page_ids = packer.Append(batch.page_ids);
  CHECK_EQ(packer.used_bytes(), PackedStepBytes(step, padding));
  return view;
}

}  // namespace tessera::TESSERA_CUDA_NAMESPACE
