// A row's bits under every circumstance that must not change them.

#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/kernels/cuda/attention_run.h"

namespace tessera::conformance {
namespace {

std::vector<StepRange> MixedStep() {
  return {{0, 1, 1},    {1, 63, 63}, {2, 130, 90}, {3, 287, 1}, {4, 200, 37},
          {5, 1030, 9}, {6, 64, 1},  {7, 300, 3},  {8, 1100, 1}};
}

std::vector<AttentionSetting> Settings() {
  std::vector<AttentionSetting> settings;
  for (const DType type : {DType::kBf16, DType::kF16}) {
    for (const int head_dim : {64, 80, 96, 128, 192, 256}) {
      if (!cuda::AttentionSupports(type, head_dim)) continue;
      const std::string name =
          (type == DType::kBf16 ? "bf16, " : "fp16, ") + std::to_string(head_dim);
      settings.push_back({.name = name + ", causal, group 3",
                          .num_heads = 3,
                          .num_kv_heads = 1,
                          .head_dim = head_dim,
                          .type = type,
                          .query_size = 4.0f});
      if (type == DType::kF16 || head_dim != 64) continue;
      settings.push_back({.name = name + ", window, softcap, group 1",
                          .num_heads = 1,
                          .num_kv_heads = 1,
                          .head_dim = head_dim,
                          .type = type,
                          .window = 90,
                          .softcap = 30.0f,
                          .query_size = 8.0f});
      settings.push_back({.name = name + ", full, group 8",
                          .num_heads = 8,
                          .num_kv_heads = 1,
                          .head_dim = head_dim,
                          .type = type,
                          .causal = false});
    }
  }
  return settings;
}

// Whether rows or splits share an item, which kind of item, and how many blocks there are.
void AloneAsInABatch(const AttentionSetting& setting, Checker& checker) {
  const std::vector<StepRange> step = MixedStep();
  const AttentionCache cache(setting, LengthsFor(step), 3);
  const AttentionResult together = cache.Attend(step);
  int first = 0;
  for (const StepRange& range : step) {
    checker.Expect(cache.Attend({range}).SameBits(0, range.count, together, first),
                   "sequence " + std::to_string(range.sequence) + " differs alone");
    first += range.count;
  }
}

void EveryPlan(const AttentionSetting& setting, Checker& checker) {
  const std::vector<StepRange> step = MixedStep();
  const AttentionCache cache(setting, LengthsFor(step), 4);
  const AttentionResult expected = cache.Attend(step);
  const std::vector<PlanChoices> plans = {
      {.num_blocks = 1},
      {.num_blocks = 64},                          // long tiles' splits become items
      {.num_blocks = 2, .max_partial_rows = 0},    // every item merges its own splits
      {.num_blocks = 64, .max_partial_rows = 10},  // room for one tile's
      {.max_tile_rows = 64},
      {.num_blocks = 3, .num_launches = 3},
  };
  for (size_t i = 0; i < plans.size(); ++i) {
    checker.Expect(cache.Attend(step, plans[i]).SameBits(expected),
                   "plan " + std::to_string(i) + " changes bits");
  }
}

// Positions [0, length) in chunks of these lengths, over and over.
void CheckChunks(const AttentionCache& cache, const AttentionResult& whole, int length,
                 const std::vector<int>& chunks, Checker& checker) {
  for (int position = 0, i = 0; position < length; ++i) {
    const int count = std::min(chunks[static_cast<size_t>(i) % chunks.size()], length - position);
    const AttentionResult chunk = cache.Attend({{0, position + count, count}});
    checker.Expect(chunk.SameBits(0, count, whole, position),
                   "the chunk of " + std::to_string(count) + " at " + std::to_string(position) +
                       " differs from the whole prompt");
    position += count;
  }
}

void EveryChunking(AttentionSetting setting, Checker& checker) {
  setting.causal = true;  // else a row sees the chunks after it
  constexpr int kLength = 203;
  const AttentionCache cache(setting, {kLength}, 5);
  const AttentionResult whole = cache.Attend({{0, kLength, kLength}});
  for (const std::vector<int>& chunks :
       std::vector<std::vector<int>>{{64}, {1, 5, 63}, {17, 100}, {128}}) {
    CheckChunks(cache, whole, kLength, chunks, checker);
  }
}

// A prompt's last rows, whose blocks merge their own splits, beside the same rows one by one, as
// decoding has them: items of 16 rows, one for each split, combined afterwards. First just past a
// split, then with three of them.
void DecodeAsPrefill(AttentionSetting setting, Checker& checker) {
  setting.causal = true;
  constexpr int kRows = 45;
  for (const int length : {1029, 2700}) {
    const AttentionCache cache(setting, {length}, 6);
    const AttentionResult prefill = cache.Attend({{0, length, kRows}}, {.max_partial_rows = 0});
    for (const int back : {1, 2, 4, 5, 6, 7, 40}) {
      checker.Expect(
          cache.Attend({{0, length - back + 1, 1}}).SameBits(0, 1, prefill, kRows - back),
          "the row at " + std::to_string(length - back) + " differs as a decode row");
    }
  }
}

void GarbageInUnusedSlots(const AttentionSetting& setting, Checker& checker) {
  const std::vector<StepRange> step = MixedStep();
  const AttentionResult expected =
      AttentionCache(setting, LengthsFor(step), 7, 0x0000).Attend(step);
  const uint16_t infinity = setting.type == DType::kBf16 ? 0x7F80 : 0x7C00;
  for (const uint16_t garbage : {uint16_t{0x7FFF}, infinity, uint16_t{0xFFFF}}) {
    checker.Expect(
        AttentionCache(setting, LengthsFor(step), 7, garbage).Attend(step).SameBits(expected),
        "what stands in unused slots changes bits: " + std::to_string(garbage));
  }
}

// A row whose query is NaN, in the same tile.
void BrokenNeighbours(const AttentionSetting& setting, Checker& checker) {
  const std::vector<StepRange> step = {{0, 90, 40}, {1, 1030, 9}, {2, 12, 2}};
  AttentionCache cache(setting, LengthsFor(step), 9);
  const AttentionResult expected = cache.Attend(step);
  cache.PoisonQuery(0, 60, 0x7FFF);
  cache.PoisonQuery(1, 1025, 0x7FFF);
  const AttentionResult poisoned = cache.Attend(step);
  for (int row = 0; row < 51; ++row) {
    const bool broken = row == 10 || row == 44;  // 60 - 50, and 40 + 1025 - 1021
    checker.Expect(poisoned.SameBits(row, 1, expected, row) != broken,
                   "row " + std::to_string(row) + (broken ? " hides its NaN" : " is changed"));
  }
}

#ifdef TESSERA_SIMT
void EveryLaneOrder(const AttentionSetting& setting, Checker& checker) {
  const std::vector<StepRange> step = MixedStep();
  const AttentionCache cache(setting, LengthsFor(step), 8);
  const AttentionResult expected = cache.Attend(step);
  for (const uint64_t seed : {11, 12, 13}) {
    simt::Device::Get().SetSeed(seed);
    checker.Expect(cache.Attend(step).SameBits(expected),
                   "seed " + std::to_string(seed) + " changes bits");
  }
  simt::Device::Get().SetSeed(1);
}
#endif

struct Test {
  const char* name;
  void (*run)(const AttentionSetting&, Checker&);
};

constexpr Test kTests[] = {
    {"alone as in a batch", AloneAsInABatch},
    {"every plan", EveryPlan},
    {"every chunking", [](const AttentionSetting& s, Checker& c) { EveryChunking(s, c); }},
    {"decode as prefill", [](const AttentionSetting& s, Checker& c) { DecodeAsPrefill(s, c); }},
    {"garbage in unused slots", GarbageInUnusedSlots},
    {"broken neighbours", BrokenNeighbours},
#ifdef TESSERA_SIMT
    {"every lane order", EveryLaneOrder},
#endif
};

}  // namespace

std::vector<AttentionCase> AttentionBitCases() {
  std::vector<AttentionCase> cases;
  for (const AttentionSetting& setting : Settings()) {
    for (const Test& test : kTests) {
      cases.push_back({std::string("same bits, ") + test.name + ": " + setting.name,
                       [setting, test](Checker& checker) { test.run(setting, checker); }});
    }
  }
  return cases;
}

}  // namespace tessera::conformance
