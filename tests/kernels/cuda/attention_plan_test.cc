// The plan's promises, on random batches: every row meets each of its splits exactly once, results
// to be combined do not overlap, and the longest items come first.

#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/kernels/cuda/attention_run.h"

namespace tessera::conformance {
namespace {

struct RandomBatch {
  std::vector<int32_t> query_starts = {0}, kv_lengths, page_starts = {0};

  RandomBatch(std::mt19937& random, int max_length) {
    const int num_sequences = static_cast<int>(random() % 6);
    for (int i = 0; i < num_sequences; ++i) {
      const int length = 1 + static_cast<int>(random() % static_cast<unsigned>(max_length));
      const int rows = random() % 2 == 0 ? 1 : 1 + static_cast<int>(random()) % length;
      query_starts.push_back(query_starts.back() + std::clamp(rows, 1, length));
      kv_lengths.push_back(length);
      page_starts.push_back(page_starts.back() + (length + kPageTokens - 1) / kPageTokens);
    }
  }
  SequenceBatch batch() const { return {query_starts, kv_lengths, page_starts, {}}; }
};

using Row = std::tuple<int, int, int>;  // sequence, packed row, split

int NumSplits(const RandomBatch& random, const cuda::AttentionPlanOptions& options, int sequence,
              int packed_row) {
  const auto i = static_cast<size_t>(sequence);
  const int rows = random.query_starts[i + 1] - random.query_starts[i];
  const int length = random.kv_lengths[i];
  const int keys = options.causal ? length - rows + packed_row / options.group + 1 : length;
  return (keys + cuda::kAttentionSplitTokens - 1) / cuda::kAttentionSplitTokens;
}

// How often each row meets each split, and where a split of it is kept for combining.
struct Coverage {
  std::map<Row, int> visits;
  std::map<Row, int> partials;

  Coverage(const RandomBatch& random, const cuda::AttentionPlan& plan,
           const cuda::AttentionPlanOptions& options) {
    for (const cuda::AttentionItem& item : plan.items()) {
      for (int row = 0; row < item.num_rows; ++row) {
        const int packed = item.first_row + row;
        if (item.split != cuda::AttentionItem::kAllSplits) {
          ++visits[{item.sequence.index, packed, item.split}];
          partials[{item.sequence.index, packed, item.split}] = item.partial_row + row;
          continue;
        }
        const int num_splits = NumSplits(random, options, item.sequence.index, packed);
        for (int split = 0; split < num_splits; ++split)
          ++visits[{item.sequence.index, packed, split}];
      }
    }
  }
};

void CheckCoverage(const RandomBatch& random, const cuda::AttentionPlanOptions& options,
                   const Coverage& coverage, Checker& checker) {
  for (size_t i = 0; i < random.kv_lengths.size(); ++i) {
    const int rows = random.query_starts[i + 1] - random.query_starts[i];
    for (int packed = 0; packed < rows * options.group; ++packed) {
      const int num_splits = NumSplits(random, options, static_cast<int>(i), packed);
      for (int split = 0; split < num_splits; ++split) {
        const auto visit = coverage.visits.find({static_cast<int>(i), packed, split});
        checker.Expect(visit != coverage.visits.end() && visit->second == 1,
                       "sequence " + std::to_string(i) + " row " + std::to_string(packed) +
                           " does not meet split " + std::to_string(split) + " once");
      }
    }
  }
}

// Each partial result has a place of its own and is where a combine looks for it.
void CheckCombines(const cuda::AttentionPlan& plan, const Coverage& coverage, Checker& checker) {
  std::vector<int> readers(static_cast<size_t>(plan.header().num_partial_rows), 0);
  for (const cuda::AttentionCombine& combine : plan.combines()) {
    checker.Expect(combine.num_rows <= cuda::kAttentionCombineRows, "too many rows to combine");
    for (int i = 0; i < combine.num_rows * combine.num_splits; ++i) {
      const int row = i % combine.num_rows;
      const int split = i / combine.num_rows;
      const int place = combine.partial_row + split * combine.split_stride + row;
      const auto partial =
          coverage.partials.find({combine.sequence.index, combine.first_row + row, split});
      checker.Expect(partial != coverage.partials.end() && partial->second == place,
                     "a combine reads what no item wrote");
      ++readers[static_cast<size_t>(place)];
    }
  }
  checker.Expect(std::all_of(readers.begin(), readers.end(), [](int n) { return n == 1; }),
                 "a partial result is not read exactly once");
  checker.Expect(coverage.partials.size() == readers.size(), "partial rows are miscounted");
}

void CheckPlan(const RandomBatch& random, const cuda::AttentionPlanOptions& options,
               const cuda::AttentionPlan& plan, Checker& checker) {
  const Coverage coverage(random, plan, options);
  CheckCoverage(random, options, coverage, checker);
  CheckCombines(plan, coverage, checker);
  checker.Expect(plan.header().num_partial_rows <= options.max_partial_rows,
                 "more partial rows than there is room for");
  const auto& items = plan.items();
  for (size_t i = 0; i < items.size(); ++i) {
    checker.Expect(items[i].num_rows >= 1 && items[i].num_rows <= items[i].tile_rows &&
                       items[i].tile_rows <= options.max_tile_rows,
                   "an item's rows do not fit its tile");
    checker.Expect(i == 0 || items[i - 1].cost >= items[i].cost, "a longer item comes later");
  }
}

void RandomPlans(Checker& checker) {
  std::mt19937 random(1);
  cuda::AttentionPlan plan;
  for (int i = 0; i < 400; ++i) {
    const RandomBatch batch(random, i % 2 == 0 ? 5000 : 300);
    const cuda::AttentionPlanOptions options = {
        .group = 1 + static_cast<int>(random() % 8),
        .num_kv_heads = 1 + static_cast<int>(random() % 4),
        .max_tile_rows = random() % 2 == 0 ? 64 : 128,
        .num_blocks = 1 + static_cast<int>(random() % 264),
        .max_partial_rows = static_cast<int>(random() % 3) * 300,
        .causal = random() % 3 != 0};
    plan.Build(batch.batch(), options);
    CheckPlan(batch, options, plan, checker);
  }
}

// 64 sequences that decode beside a prompt: the prompt's tiles are the longest and come first, and
// no item is longer than what 264 blocks have each.
void MixedStepIsBalanced(Checker& checker) {
  std::vector<int32_t> query_starts = {0, 4096}, kv_lengths = {4096};
  for (int i = 0; i < 64; ++i) {
    query_starts.push_back(query_starts.back() + 1);
    kv_lengths.push_back(2048);
  }
  cuda::AttentionPlan plan;
  const std::vector<int32_t> page_starts(66);
  plan.Build({query_starts, kv_lengths, page_starts, {}}, {.group = 4,
                                                           .num_kv_heads = 8,
                                                           .max_tile_rows = 128,
                                                           .num_blocks = 264,
                                                           .max_partial_rows = 1 << 16});
  int64_t total = 0;
  for (const cuda::AttentionItem& item : plan.items()) total += item.cost;
  checker.Expect(plan.items().front().sequence.index == 0, "the prompt's tiles do not come first");
  checker.Expect(plan.items().front().cost <= total * 8 / 264, "an item exceeds its fair share");
}

}  // namespace

std::vector<AttentionCase> AttentionPlanCases() {
  return {{"plan: every row meets every split once", RandomPlans},
          {"plan: a mixed step is balanced", MixedStepIsBalanced}};
}

}  // namespace tessera::conformance
