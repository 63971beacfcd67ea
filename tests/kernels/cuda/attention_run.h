#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/dtype.h"
#include "tests/kernels/simt/conformance.h"

// Sequences with random queries, keys and values, attention of some of their rows on the device,
// and the same in float64.

namespace tessera::conformance {

namespace cuda = TESSERA_CUDA_NAMESPACE;

struct AttentionCase {
  std::string name;
  std::function<void(Checker&)> run;
};

struct AttentionSetting {
  std::string name;
  int num_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 64;
  DType type = DType::kBf16;
  bool causal = true;
  int window = 0;
  float softcap = 0.0f;
  float query_size = 1.0f;  // large ones make one key dominate and the running maximum jump

  int group() const { return num_heads / num_kv_heads; }
  float scale() const;
};

// Rows of a sequence in one step: positions [end - count, end). The step sees `end` keys.
struct StepRange {
  int sequence;
  int end;
  int count;
};

// Choices that may change no bit.
struct PlanChoices {
  int num_blocks = 4;
  int max_partial_rows = 4096;
  int max_tile_rows = 0;  // 0: the kernel's own
  int num_launches = 1;   // one after another, in the same workspace
};

// One sequence by position, rounded to the setting's type.
struct AttentionSequence {
  int length = 0;
  std::vector<uint16_t> q_bits;  // [length, num_heads, head_dim]
  std::vector<uint16_t> k_bits;  // [length, num_kv_heads, head_dim]
  std::vector<uint16_t> v_bits;
  std::vector<float> q, k, v;  // the same values
  std::vector<int32_t> page_ids;
};

struct AttentionResult {
  size_t num_heads = 0;
  size_t head_dim = 0;
  std::vector<uint16_t> out;  // [rows, num_heads, head_dim]
  std::vector<float> lse;     // [rows, num_heads]

  // Whether `count` rows from `first` on have the bits of other's rows from `other_first` on.
  bool SameBits(int first, int count, const AttentionResult& other, int other_first) const;
  bool SameBits(const AttentionResult& other) const;
};

// The sequences' keys and values in pages of the device, in a random order. Slots without a token
// hold `garbage`.
class AttentionCache {
 public:
  AttentionCache(const AttentionSetting& setting, const std::vector<int>& lengths, uint32_t seed,
                 uint16_t garbage = 0x7FFF);

  const AttentionSetting& setting() const { return setting_; }
  const AttentionSequence& sequence(int i) const { return sequences_[static_cast<size_t>(i)]; }

  // All heads' queries of the position become `bits`.
  void PoisonQuery(int sequence, int position, uint16_t bits);

  AttentionResult Attend(const std::vector<StepRange>& step,
                         const PlanChoices& choices = PlanChoices()) const;

  // Holds a result to float64 within rounding's bound, for every stride-th row and head, and
  // the last of each range.
  void Check(const std::vector<StepRange>& step, const AttentionResult& result, int stride,
             Checker& checker) const;

 private:
  void AddSequence(int length, uint32_t seed);
  std::vector<uint16_t> PackPages(int num_pages, uint16_t garbage) const;
  void CheckRow(const StepRange& range, int position, int head, const uint16_t* actual, float lse,
                Checker& checker) const;

  AttentionSetting setting_;
  std::vector<AttentionSequence> sequences_;
  cuda::DeviceArray<uint16_t> pages_;
};

std::vector<int> LengthsFor(const std::vector<StepRange>& step);

std::vector<AttentionCase> AttentionAccuracyCases();
std::vector<AttentionCase> AttentionBitCases();
std::vector<AttentionCase> AttentionPlanCases();
std::vector<AttentionCase> RopeStoreKvCases();

}  // namespace tessera::conformance
