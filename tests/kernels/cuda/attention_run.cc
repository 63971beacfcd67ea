#include "tests/kernels/cuda/attention_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/half_bits.h"
#include "kernels/cuda/kv_page.h"
#include "tests/support/noise.h"

namespace tessera::conformance {
namespace {

uint16_t ToBits(DType type, float value) {
  return type == DType::kBf16 ? FloatToBf16Bits(value) : FloatToFp16Bits(value);
}

float FromBits(DType type, uint16_t bits) {
  return type == DType::kBf16 ? Bf16BitsToFloat(bits) : Fp16BitsToFloat(bits);
}

double UnitRoundoff(DType type) { return type == DType::kBf16 ? 0x1p-8 : 0x1p-11; }

void FillRandom(DType type, float size, size_t count, Noise& noise, std::vector<uint16_t>* bits,
                std::vector<float>* values) {
  bits->resize(count);
  values->resize(count);
  for (size_t i = 0; i < count; ++i) {
    (*bits)[i] = ToBits(type, size * noise());
    (*values)[i] = FromBits(type, (*bits)[i]);
  }
}

// The step's arrays on host and device.
struct DeviceStep {
  std::vector<int32_t> query_starts = {0}, kv_lengths, page_starts = {0}, page_ids;
  std::vector<TokenId> tokens;
  SequenceBatch batch;
  cuda::DeviceMemory memory;
  cuda::StepView view;

  void Upload() {
    batch = {query_starts, kv_lengths, page_starts, page_ids};
    tokens.resize(static_cast<size_t>(batch.num_rows()));
    const StepRows rows = {tokens, &batch, {}};
    std::vector<uint64_t> packed(cuda::PackedStepBytes(rows) / sizeof(uint64_t));
    memory = cuda::DeviceMemory(packed.size() * sizeof(uint64_t));
    view = cuda::PackStep(rows, {}, packed.data(), memory.data());
    cuda::CopyToDevice(memory.data(), packed.data(), memory.size_bytes());
  }
};

cuda::DeviceMemory UploadPlan(const cuda::AttentionPlan& plan) {
  constexpr size_t kItemsOffset = sizeof(cuda::AttentionPlanHeader);
  std::vector<char> packed(kItemsOffset + plan.items_bytes());
  plan.Pack(kItemsOffset, packed.data());
  cuda::DeviceMemory memory(packed.size());
  cuda::CopyToDevice(memory.data(), packed.data(), packed.size());
  return memory;
}

cuda::DeviceMemory ZeroedMemory(size_t size_bytes) {
  cuda::DeviceMemory memory(size_bytes);
  const std::vector<char> zeros(size_bytes);
  cuda::CopyToDevice(memory.data(), zeros.data(), size_bytes);
  return memory;
}

// One head of one row in float64, with bounds of what the device may differ by.
struct ExactRow {
  std::vector<double> values;
  std::vector<double> tolerances;
  double lse = -std::numeric_limits<double>::infinity();
  double lse_tolerance = 0;
};

// A row's visible keys and their scores.
struct ExactScores {
  int begin = 0;
  std::vector<double> scores;
  double error = 0;  // of any score, in absolute terms

  double max() const { return *std::max_element(scores.begin(), scores.end()); }
  double range() const { return max() - *std::min_element(scores.begin(), scores.end()); }
};

// Products of two 16-bit values are exact in fp32. The tensor core sums 16 of them at a time with
// truncation: at most 2^-23 of the magnitudes for each of its steps, and a few more around them.
ExactScores ScoresOf(const AttentionSetting& setting, const AttentionSequence& sequence,
                     int kv_length, int position, int head) {
  const auto dim = static_cast<size_t>(setting.head_dim);
  const int kv_head = head / setting.group();
  const float* q =
      &sequence.q[(static_cast<size_t>(std::max(position, 0)) * setting.num_heads + head) * dim];
  ExactScores exact;
  exact.begin = setting.window > 0 ? std::max(0, position - setting.window + 1) : 0;
  const int end = setting.causal ? std::min(position + 1, kv_length) : kv_length;
  double largest = 0;
  for (int key = exact.begin; key < end; ++key) {
    const float* k = &sequence.k[(static_cast<size_t>(key) * setting.num_kv_heads + kv_head) * dim];
    double dot = 0, magnitude = 0;
    for (size_t d = 0; d < dim; ++d) {
      dot += double{q[d]} * double{k[d]};
      magnitude += std::fabs(double{q[d]} * double{k[d]});
    }
    largest = std::max(largest, magnitude * double{setting.scale()});
    const double score = dot * double{setting.scale()};
    const double cap = setting.softcap;
    exact.scores.push_back(cap == 0 ? score : cap * std::tanh(score / cap));
  }
  const int num_roundings = setting.head_dim / 16 * 2 + 8;
  exact.error = largest * num_roundings * 0x1p-23 + double{setting.softcap} * 0x1p-20;
  return exact;
}

// Weights are rounded to T: independent errors of at most u each, whose sum exceeds 6 u times the
// root of the sum of the terms' squares with a probability below 2^-24 (Hoeffding). The output is
// rounded to T. All else is in fp32: an error of a score is a relative one of its weight; exp2 has
// 2 ulp, its argument the rounding of a number as large as the scores' range; sums and rescalings
// have one rounding a step of 16 keys, truncated.
ExactRow AttendExactly(const AttentionSetting& setting, const AttentionSequence& sequence,
                       int kv_length, int position, int head) {
  const auto dim = static_cast<size_t>(setting.head_dim);
  const auto kv_head = static_cast<size_t>(head / setting.group());
  const ExactScores exact = ScoresOf(setting, sequence, kv_length, position, head);
  ExactRow row = {std::vector<double>(dim, 0.0), std::vector<double>(dim, 0.0)};
  if (exact.scores.empty()) return row;
  const double max = exact.max();
  double sum = 0;
  for (const double score : exact.scores) sum += std::exp(score - max);
  std::vector<double> squares(dim, 0.0), magnitudes(dim, 0.0);
  for (size_t i = 0; i < exact.scores.size(); ++i) {
    const double weight = std::exp(exact.scores[i] - max) / sum;
    const size_t key = static_cast<size_t>(exact.begin) + i;
    const float* v = &sequence.v[(key * static_cast<size_t>(setting.num_kv_heads) + kv_head) * dim];
    for (size_t d = 0; d < dim; ++d) {
      const double term = weight * double{v[d]};
      row.values[d] += term;
      squares[d] += term * term;
      magnitudes[d] += std::fabs(term);
    }
  }
  const double num_keys = static_cast<double>(exact.scores.size());
  const double weight_error = exact.error + 0x1p-22 * (2 + 1.5 * (exact.range() + std::fabs(max)));
  const double sum_error = (num_keys / 16 * 4 + 32) * 0x1p-23;
  const double u = UnitRoundoff(setting.type);
  const double underflow = setting.type == DType::kF16 ? num_keys * 0x1p-25 / sum * 2 : 0;
  for (size_t d = 0; d < dim; ++d) {
    row.tolerances[d] = u * std::fabs(row.values[d]) + 6 * u * std::sqrt(squares[d]) +
                        2 * magnitudes[d] * (weight_error + sum_error) + underflow + 0x1p-24;
  }
  row.lse = max + std::log(sum);
  row.lse_tolerance = weight_error + num_keys * 0x1p-24 + (std::fabs(row.lse) + 1) * 0x1p-21;
  return row;
}

}  // namespace

float AttentionSetting::scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

bool AttentionResult::SameBits(int first, int count, const AttentionResult& other,
                               int other_first) const {
  const auto begin = static_cast<size_t>(first) * num_heads;
  const auto other_begin = static_cast<size_t>(other_first) * num_heads;
  const auto size = static_cast<size_t>(count) * num_heads;
  return std::memcmp(&lse[begin], &other.lse[other_begin], size * sizeof(float)) == 0 &&
         std::memcmp(&out[begin * head_dim], &other.out[other_begin * head_dim],
                     size * head_dim * sizeof(uint16_t)) == 0;
}

bool AttentionResult::SameBits(const AttentionResult& other) const {
  return lse.size() == other.lse.size() &&
         SameBits(0, static_cast<int>(lse.size() / num_heads), other, 0);
}

AttentionCache::AttentionCache(const AttentionSetting& setting, const std::vector<int>& lengths,
                               uint32_t seed, uint16_t garbage)
    : setting_(setting), pages_(0) {
  int num_pages = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    AddSequence(lengths[i], seed * 1000 + static_cast<uint32_t>(i));
    num_pages += (lengths[i] + kPageTokens - 1) / kPageTokens;
  }
  std::vector<int32_t> order(static_cast<size_t>(num_pages));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  auto next = order.begin();
  for (AttentionSequence& sequence : sequences_) {
    for (int i = 0; i < sequence.length; i += kPageTokens) sequence.page_ids.push_back(*next++);
  }
  pages_ = cuda::DeviceArray<uint16_t>(PackPages(num_pages, garbage));
}

void AttentionCache::AddSequence(int length, uint32_t seed) {
  AttentionSequence& sequence = sequences_.emplace_back();
  sequence.length = length;
  Noise noise(seed);
  const auto tokens = static_cast<size_t>(length);
  const size_t q_size = tokens * setting_.num_heads * setting_.head_dim;
  const size_t kv_size = tokens * setting_.num_kv_heads * setting_.head_dim;
  const DType type = setting_.type;
  FillRandom(type, setting_.query_size, q_size, noise, &sequence.q_bits, &sequence.q);
  FillRandom(type, 1.0f, kv_size, noise, &sequence.k_bits, &sequence.k);
  FillRandom(type, 1.0f, kv_size, noise, &sequence.v_bits, &sequence.v);
}

std::vector<uint16_t> AttentionCache::PackPages(int num_pages, uint16_t garbage) const {
  const cuda::KvPageLayout layout({setting_.num_kv_heads, setting_.head_dim});
  const auto dim = static_cast<size_t>(setting_.head_dim);
  std::vector<uint16_t> pages(static_cast<size_t>(num_pages * layout.PageElements()), garbage);
  for (const AttentionSequence& sequence : sequences_) {
    for (int i = 0; i < sequence.length * setting_.num_kv_heads; ++i) {
      const int position = i / setting_.num_kv_heads;
      const int32_t page_id = sequence.page_ids[static_cast<size_t>(position / kPageTokens)];
      uint16_t* key = pages.data() +
                      layout.KeyOffset(page_id, i % setting_.num_kv_heads, position % kPageTokens);
      const size_t token = static_cast<size_t>(i) * dim;
      std::copy_n(&sequence.k_bits[token], dim, key);
      std::copy_n(&sequence.v_bits[token], dim, key + layout.KeyElements());
    }
  }
  return pages;
}

void AttentionCache::PoisonQuery(int sequence, int position, uint16_t bits) {
  AttentionSequence& own = sequences_[static_cast<size_t>(sequence)];
  const int64_t row_size = int64_t{setting_.num_heads} * setting_.head_dim;
  std::fill_n(own.q_bits.begin() + position * row_size, row_size, bits);
}

AttentionResult AttentionCache::Attend(const std::vector<StepRange>& ranges,
                                       const PlanChoices& choices) const {
  const auto num_heads = static_cast<size_t>(setting_.num_heads);
  const auto head_dim = static_cast<size_t>(setting_.head_dim);
  const size_t row_size = num_heads * head_dim;
  const size_t q_stride = row_size + 24;  // queries stand inside wider rows
  DeviceStep step;
  std::vector<uint16_t> q;
  for (const StepRange& range : ranges) {
    const AttentionSequence& own = sequence(range.sequence);
    step.query_starts.push_back(step.query_starts.back() + range.count);
    step.kv_lengths.push_back(range.end);
    step.page_ids.insert(step.page_ids.end(), own.page_ids.begin(), own.page_ids.end());
    step.page_starts.push_back(static_cast<int32_t>(step.page_ids.size()));
    for (int position = range.end - range.count; position < range.end; ++position) {
      const size_t row = static_cast<size_t>(std::max(position, 0)) * row_size;
      q.insert(q.end(), &own.q_bits[row], &own.q_bits[row] + row_size);
      q.resize(q.size() + q_stride - row_size, 0x7FFF);
    }
  }
  step.Upload();
  const auto num_rows = static_cast<size_t>(step.batch.num_rows());
  const cuda::DeviceArray<uint16_t> device_q(q);
  const cuda::DeviceArray<uint16_t> out(num_rows * row_size);
  const cuda::DeviceArray<float> lse(num_rows * num_heads);
  const KvSpec spec = {setting_.num_kv_heads, setting_.head_dim};

  cuda::AttentionPlan plan;
  plan.Build(step.batch, {.group = setting_.group(),
                          .num_kv_heads = setting_.num_kv_heads,
                          .max_tile_rows = choices.max_tile_rows > 0
                                               ? choices.max_tile_rows
                                               : cuda::AttentionMaxTileRows(setting_.head_dim),
                          .num_blocks = choices.num_blocks,
                          .max_partial_rows = choices.max_partial_rows,
                          .causal = setting_.causal});
  const cuda::DeviceMemory device_plan = UploadPlan(plan);
  const cuda::AttentionWorkspaceLimits limits = {.head_dim = setting_.head_dim,
                                                 .num_kv_heads = setting_.num_kv_heads,
                                                 .num_blocks = choices.num_blocks,
                                                 .max_partial_rows = choices.max_partial_rows};
  const cuda::DeviceMemory workspace = ZeroedMemory(cuda::AttentionWorkspaceBytes(limits));
  const cuda::Stream stream;
  const cuda::AttentionLaunch launch = {
      .type = setting_.type,
      .q = device_q.data(),
      .q_stride = static_cast<int64_t>(q_stride),
      .out = out.data(),
      .lse = lse.data(),
      .num_heads = setting_.num_heads,
      .spec = spec,
      .pages = pages_.data(),
      .scale = setting_.scale(),
      .softcap = setting_.softcap,
      .window = setting_.window,
      .causal = setting_.causal,
      .step = step.view,
      .plan = reinterpret_cast<const cuda::AttentionPlanHeader*>(device_plan.data()),
      .combines = !plan.combines().empty(),
      .workspace = workspace.data(),
      .limits = limits};
  for (int i = 0; i < choices.num_launches; ++i) {
    cuda::FillAsync(out.data(), 0xFF, out.size() * sizeof(uint16_t), stream);
    cuda::FillAsync(lse.data(), 0xFF, lse.size() * sizeof(float), stream);
    cuda::LaunchAttention(stream, launch);
  }
  stream.Synchronize();
  return {num_heads, head_dim, out.ToHost(), lse.ToHost()};
}

void AttentionCache::CheckRow(const StepRange& range, int position, int head,
                              const uint16_t* actual, float lse, Checker& checker) const {
  const ExactRow exact =
      AttendExactly(setting_, sequence(range.sequence), range.end, position, head);
  const std::string where = setting_.name + ": sequence " + std::to_string(range.sequence) +
                            " position " + std::to_string(position) + " head " +
                            std::to_string(head);
  if (exact.lse == -std::numeric_limits<double>::infinity()) {
    checker.Expect(std::isinf(lse) && lse < 0, where + ": lse is not -infinity");
  } else {
    checker.Expect(std::fabs(double{lse} - exact.lse) <= exact.lse_tolerance,
                   where + ": lse " + std::to_string(lse) + ", expected " +
                       std::to_string(exact.lse) + " +- " + std::to_string(exact.lse_tolerance));
  }
  for (size_t d = 0; d < exact.values.size(); ++d) {
    const float value = FromBits(setting_.type, actual[d]);
    const double error = std::fabs(double{value} - exact.values[d]);
    checker.Expect(error <= exact.tolerances[d] && (exact.tolerances[d] > 0 || actual[d] == 0),
                   where + " dimension " + std::to_string(d) + ": " + std::to_string(value) +
                       ", expected " + std::to_string(exact.values[d]) + " +- " +
                       std::to_string(exact.tolerances[d]));
  }
}

void AttentionCache::Check(const std::vector<StepRange>& ranges, const AttentionResult& result,
                           int stride, Checker& checker) const {
  int first_row = 0;
  for (const StepRange& range : ranges) {
    const int num_pairs = range.count * setting_.num_heads;
    for (int i = 0; i < num_pairs; ++i) {
      if (i % stride != 0 && i != num_pairs - 1) continue;
      const int row = i / setting_.num_heads;
      const size_t index =
          static_cast<size_t>(first_row) * result.num_heads + static_cast<size_t>(i);
      CheckRow(range, range.end - range.count + row, i % setting_.num_heads,
               &result.out[index * result.head_dim], result.lse[index], checker);
    }
    first_row += range.count;
  }
}

std::vector<int> LengthsFor(const std::vector<StepRange>& step) {
  std::vector<int> lengths;
  for (const StepRange& range : step) {
    const auto index = static_cast<size_t>(range.sequence);
    if (lengths.size() <= index) lengths.resize(index + 1, 1);
    lengths[index] = std::max(lengths[index], range.end);
  }
  return lengths;
}

}  // namespace tessera::conformance
