#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/device_io.h"

// Inputs for the ops and calls that give back their outputs: what backend_ops_test compares between
// backends and reproducibility_test between batches.

namespace tessera {

// Normally distributed around 0.
Floats NormalFloats(int64_t size, uint32_t seed);
// The same with one in a hundred 20 times larger, as activations are.
Floats ActivationFloats(int64_t size, uint32_t seed);

// Rows of a weight in the file format, values around 1 / sqrt(cols).
std::vector<std::byte> RandomWeightRows(DType type, int64_t rows, int64_t cols, uint32_t seed);
std::unique_ptr<PackedWeight> MakeWeight(Backend* backend, DType type, int64_t rows, int64_t cols,
                                         uint32_t seed);
// The same weight's values, [rows, cols].
Floats DequantizedWeight(DType type, int64_t rows, int64_t cols, uint32_t seed);

// Activations among the inputs are rounded to the backend's type, outputs come from it.
Floats RunRmsNorm(Backend* backend, const Floats& x, const Floats& weight, float epsilon);
// The residual, then the output.
Floats RunAddRmsNorm(Backend* backend, const Floats& x, const Floats& residual,
                     const Floats& weight, float epsilon);
Floats RunSwiGlu(Backend* backend, const Floats& gate_up, int64_t dim);
Floats RunLinear(Backend* backend, const Floats& x,
                 const std::vector<const PackedWeight*>& weights);
Floats RunLogits(Backend* backend, const Floats& x, const PackedWeight& weight);
Floats RunEmbed(Backend* backend, const PackedWeight& table, const std::vector<TokenId>& tokens);
// x: [x.size() / dim, dim].
Floats RunGatherRows(Backend* backend, const Floats& x, int64_t dim,
                     const std::vector<int32_t>& rows);

// A step of one sequence of as many rows as there are tokens, announced to a backend.
class AnnouncedStep {
 public:
  AnnouncedStep(Backend* backend, std::vector<TokenId> tokens, std::vector<int32_t> selected);
  AnnouncedStep(const AnnouncedStep&) = delete;
  AnnouncedStep& operator=(const AnnouncedStep&) = delete;

  std::span<const TokenId> tokens() const { return tokens_; }
  std::span<const int32_t> selected() const { return selected_; }

 private:
  const std::vector<TokenId> tokens_;
  const std::vector<int32_t> selected_;
  const int32_t query_starts_[2];
  const int32_t kv_lengths_[1];
  const std::vector<int32_t> page_ids_;
  const int32_t page_starts_[2];
  const SequenceBatch batch_;
};

struct AttentionShape {
  int num_heads = 1;
  KvSpec spec;
  int rope_dim = 0;
  int window = 0;
  float softcap = 0.0f;
  bool causal = true;
};

// A batch of growing sequences over one layer's pages. The queries, keys and values of a sequence's
// position depend on its seed and that position alone. Pages are scattered over the pool.
class AttentionRun {
 public:
  AttentionRun(Backend* backend, const AttentionShape& shape, std::vector<uint32_t> sequence_seeds,
               int max_length);

  // Later rows have only values of that backend's activation type.
  void RoundInputsFor(const Backend& backend) { rounded_for_ = &backend; }

  // Sequence i gets its next num_tokens[i] tokens; those with 0 are left out of the batch.
  void Step(const std::vector<int>& num_tokens);

  // Of all steps: [length, num_heads, head_dim].
  const Floats& output(int sequence) const { return outputs_[static_cast<size_t>(sequence)]; }
  const Floats& rotated_q(int sequence) const { return queries_[static_cast<size_t>(sequence)]; }
  int num_faults() const { return num_faults_; }

  // Replaces a value (of q, k, v side by side) that a later Step will bring.
  void Poison(int sequence, int position, int index, float value);
  // Sequence `to`, still empty, starts with the first num_tokens tokens of `from`; the last page's
  // are copied.
  void Fork(int from, int to, int num_tokens);
  // Begins another sequence in the same pages.
  void Restart(int sequence, uint32_t seed);

 private:
  struct Sequence {
    uint32_t seed = 0;
    int length = 0;
    std::vector<int32_t> pages;
  };
  struct PoisonedValue {
    int sequence, position, index;
    float value;
  };

  // What one step passes to the ops; spans of it make a SequenceBatch.
  struct Rows {
    std::vector<int> sequences;
    std::vector<int32_t> query_starts = {0};
    std::vector<int32_t> kv_lengths;
    std::vector<int32_t> page_starts = {0};
    std::vector<int32_t> page_ids;
    Floats qkv;
    Floats out;
    std::vector<uint8_t> faults;

    SequenceBatch Batch() const { return {query_starts, kv_lengths, page_starts, page_ids}; }
  };

  void Append(int sequence, int num_tokens, Rows* rows);
  void RunOps(Rows* rows);
  void KeepOutputs(const Rows& rows);
  Floats MakeRow(int sequence, int position) const;
  int64_t RowSize() const;

  Backend* const backend_;
  const Backend* rounded_for_ = nullptr;
  const AttentionShape shape_;
  std::vector<Sequence> sequences_;
  std::vector<PoisonedValue> poisoned_;
  DeviceBuffer cosines_;
  DeviceBuffer sines_;
  DeviceBuffer pages_;
  std::vector<Floats> outputs_;
  std::vector<Floats> queries_;
  int num_faults_ = 0;
};

}  // namespace tessera
