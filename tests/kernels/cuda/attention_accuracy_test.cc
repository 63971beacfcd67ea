#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/kernels/cuda/attention_run.h"

namespace tessera::conformance {
namespace {

struct Shape {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  DType type = DType::kBf16;
};

struct Batch {
  const char* name;
  std::vector<StepRange> step;
};

std::vector<AttentionSetting> Masks() {
  return {{.name = "causal"},
          {.name = "full", .causal = false},
          {.name = "window 70", .window = 70},
          {.name = "window 5", .window = 5},
          {.name = "full, window 33", .causal = false, .window = 33},
          {.name = "softcap", .softcap = 5.0f},
          {.name = "softcap, window 100, large scores",
           .window = 100,
           .softcap = 20.0f,
           .query_size = 8.0f},
          {.name = "large scores", .query_size = 30.0f}};
}

std::vector<Batch> ShortBatches() {
  return {
      {"one token", {{0, 1, 1}}},
      {"decode rows", {{0, 1, 1}, {1, 64, 1}, {2, 65, 1}, {3, 200, 1}, {4, 129, 1}}},
      {"short prompts", {{0, 3, 3}, {1, 17, 17}, {2, 63, 63}, {3, 1, 1}}},
      {"page-sized prompts", {{0, 64, 64}, {1, 65, 65}, {2, 128, 128}}},
      {"a prompt of 150", {{0, 150, 150}}},
      {"a chunk in mid-sequence", {{0, 230, 37}, {1, 131, 5}}},
      {"chunks and decode rows", {{0, 9, 1}, {1, 100, 60}, {2, 190, 1}, {3, 77, 2}, {4, 40, 40}}},
      {"speculated rows", {{0, 70, 4}, {1, 133, 5}, {2, 8, 8}}},
      {"rows before the sequence", {{0, 3, 7}, {1, 0, 2}, {2, 66, 1}, {3, 0, 70}, {4, 10, 150}}},
  };
}

// Lengths beyond a split, sparingly: 1,024 keys are 16 pages.
std::vector<Batch> LongBatches() {
  return {
      {"decode around the first split", {{0, 1023, 1}, {1, 1024, 1}, {2, 1025, 1}, {3, 2049, 1}}},
      {"a chunk across the split", {{0, 1040, 40}}},
      {"mixed long and short", {{0, 1100, 20}, {1, 2100, 1}, {2, 33, 33}}},
  };
}

AttentionCase MakeCase(const Shape& shape, AttentionSetting setting, const Batch& batch) {
  setting.num_heads = shape.num_heads;
  setting.num_kv_heads = shape.num_kv_heads;
  setting.head_dim = shape.head_dim;
  setting.type = shape.type;
  setting.name += std::string(shape.type == DType::kBf16 ? ", bf16 " : ", fp16 ") +
                  std::to_string(shape.num_heads) + "/" + std::to_string(shape.num_kv_heads) +
                  " heads of " + std::to_string(shape.head_dim) + ", " + batch.name;
  return {setting.name, [setting, batch](Checker& checker) {
            const AttentionCache cache(setting, LengthsFor(batch.step), 1);
            cache.Check(batch.step, cache.Attend(batch.step), 7, checker);
          }};
}

void AddCases(const Shape& shape, const std::vector<AttentionSetting>& masks,
              const std::vector<Batch>& batches, std::vector<AttentionCase>* cases) {
  if (!cuda::AttentionSupports(shape.type, shape.head_dim)) return;
  for (const AttentionSetting& mask : masks) {
    for (const Batch& batch : batches) cases->push_back(MakeCase(shape, mask, batch));
  }
}

}  // namespace

std::vector<AttentionCase> AttentionAccuracyCases() {
  const std::vector<AttentionSetting> masks = Masks();
  const std::vector<AttentionSetting> few_masks = {masks[0], masks[1], masks[2], masks[6]};
  std::vector<AttentionCase> cases;
  for (const Shape& shape : {Shape{2, 2, 64}, Shape{3, 1, 64}, Shape{8, 2, 64}, Shape{8, 1, 64}}) {
    AddCases(shape, masks, ShortBatches(), &cases);
  }
  for (const Shape& shape : {Shape{1, 1, 128}, Shape{4, 1, 128}}) {
    AddCases(shape, few_masks, ShortBatches(), &cases);
  }
  AddCases({3, 1, 64}, few_masks, LongBatches(), &cases);
  AddCases({8, 1, 128}, {masks[0], masks[2]}, LongBatches(), &cases);
  for (const int head_dim : {80, 96, 192, 256}) {
    AddCases({6, 2, head_dim}, few_masks, ShortBatches(), &cases);
    AddCases({4, 1, head_dim}, {masks[0]}, LongBatches(), &cases);
  }
  for (const int head_dim : {64, 80, 96, 128, 192, 256}) {
    AddCases({4, 1, head_dim, DType::kF16}, few_masks, ShortBatches(), &cases);
    AddCases({3, 1, head_dim, DType::kF16}, {masks[0]}, LongBatches(), &cases);
  }
  return cases;
}

}  // namespace tessera::conformance
