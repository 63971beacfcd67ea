#include "kernels/reference/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/dequantize.h"

namespace tessera {
namespace {

int64_t TokenElements(const KvSpec& spec) { return int64_t{spec.num_kv_heads} * spec.head_dim; }

// One sequence's view of the cache: finds the key of a position and head; the value lies
// kPageTokens * TokenElements further on.
struct SequencePages {
  const KvSpec* spec;
  const SequenceBatch* batch;
  int sequence;

  int64_t KeyOffset(int64_t position, int kv_head) const {
    const int64_t first_page = batch->page_starts[static_cast<size_t>(sequence)];
    const int64_t page = batch->page_ids[static_cast<size_t>(first_page + position / kPageTokens)];
    const int64_t page_elements = 2 * kPageTokens * TokenElements(*spec);
    return page * page_elements + (position % kPageTokens) * TokenElements(*spec) +
           int64_t{kv_head} * spec->head_dim;
  }
  int64_t ValueOffset(int64_t position, int kv_head) const {
    return KeyOffset(position, kv_head) + kPageTokens * TokenElements(*spec);
  }
};

int64_t FirstPosition(const SequenceBatch& batch, size_t sequence) {
  const int num_rows = batch.query_starts[sequence + 1] - batch.query_starts[sequence];
  return batch.kv_lengths[sequence] - num_rows;
}

// Rotates the pairs (i, i + rope_dim / 2) of one head.
std::vector<float> Rotate(const float* head, int head_dim, const RopeStoreKvParams& params,
                          int64_t position) {
  std::vector<float> rotated(head, head + head_dim);
  const int half = params.rope_dim / 2;
  for (int i = 0; i < half; ++i) {
    const double cosine = params.rope_cos[position * half + i];
    const double sine = params.rope_sin[position * half + i];
    const double a = head[i];
    const double b = head[i + half];
    rotated[static_cast<size_t>(i)] = static_cast<float>(a * cosine - b * sine);
    rotated[static_cast<size_t>(i + half)] = static_cast<float>(b * cosine + a * sine);
  }
  return rotated;
}

// Returns whether all values were finite.
bool StoreHalf(const float* values, int count, uint16_t* out) {
  bool all_finite = true;
  for (int i = 0; i < count; ++i) {
    all_finite &= std::isfinite(values[i]);
    out[i] = FloatToHalfFinite(values[i]);
  }
  return all_finite;
}

void RopeStoreRow(const RopeStoreKvParams& params, const SequencePages& pages, int row,
                  int64_t position) {
  const int head_dim = params.spec.head_dim;
  const int num_kv_heads = params.spec.num_kv_heads;
  float* q = static_cast<float*>(params.qkv) +
             int64_t{row} * (params.num_heads + 2 * num_kv_heads) * head_dim;
  for (int head = 0; head < params.num_heads; ++head) {
    float* values = q + int64_t{head} * head_dim;
    const std::vector<float> rotated = Rotate(values, head_dim, params, position);
    std::copy(rotated.begin(), rotated.end(), values);
  }
  const float* keys = q + int64_t{params.num_heads} * head_dim;
  const float* values = keys + int64_t{num_kv_heads} * head_dim;
  auto* cache = reinterpret_cast<uint16_t*>(params.pages);
  bool all_finite = true;
  for (int head = 0; head < num_kv_heads; ++head) {
    const int64_t offset = int64_t{head} * head_dim;
    const std::vector<float> key = Rotate(keys + offset, head_dim, params, position);
    all_finite &= StoreHalf(key.data(), head_dim, cache + pages.KeyOffset(position, head));
    all_finite &= StoreHalf(values + offset, head_dim, cache + pages.ValueOffset(position, head));
  }
  if (!all_finite) params.row_faults[row] = 1;
}

double Score(const AttentionParams& params, const float* query, const uint16_t* key) {
  double dot = 0;
  for (int i = 0; i < params.spec.head_dim; ++i) dot += double{query[i]} * HalfToFloat(key[i]);
  const double score = dot * double{params.scale};
  if (params.softcap == 0) return score;
  return double{params.softcap} * std::tanh(score / double{params.softcap});
}

// Textbook softmax over the visible keys [begin, end).
void AttendHead(const AttentionParams& params, const SequencePages& pages, const float* query,
                int kv_head, int64_t begin, int64_t end, float* out) {
  const int head_dim = params.spec.head_dim;
  const auto* cache = reinterpret_cast<const uint16_t*>(params.pages);
  std::vector<double> scores;
  for (int64_t position = begin; position < end; ++position) {
    scores.push_back(Score(params, query, cache + pages.KeyOffset(position, kv_head)));
  }
  const double max = scores.empty() ? 0 : *std::max_element(scores.begin(), scores.end());
  std::vector<double> sums(static_cast<size_t>(head_dim), 0.0);
  double total = 0;
  for (int64_t position = begin; position < end; ++position) {
    const double weight = std::exp(scores[static_cast<size_t>(position - begin)] - max);
    const uint16_t* value = cache + pages.ValueOffset(position, kv_head);
    total += weight;
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += weight * double{HalfToFloat(value[i])};
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    out[i] = total > 0 ? static_cast<float>(sums[i] / total) : 0.0f;
  }
}

void AttendRow(const AttentionParams& params, const SequencePages& pages, int row,
               int64_t position) {
  const int64_t kv_length = params.batch->kv_lengths[static_cast<size_t>(pages.sequence)];
  const int64_t begin = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
  const int64_t end = params.causal ? position + 1 : kv_length;
  const int heads_per_kv_head = params.num_heads / params.spec.num_kv_heads;
  const int head_dim = params.spec.head_dim;
  for (int head = 0; head < params.num_heads; ++head) {
    const auto* q = static_cast<const float*>(params.q) + row * params.q_stride;
    auto* out = static_cast<float*>(params.out) + int64_t{row} * params.num_heads * head_dim;
    AttendHead(params, pages, q + int64_t{head} * head_dim, head / heads_per_kv_head, begin, end,
               out + int64_t{head} * head_dim);
  }
}

template <typename Params, typename RowFunction>
void ForEachRow(const Params& params, const RowFunction& function) {
  const SequenceBatch& batch = *params.batch;
  for (int sequence = 0; sequence < batch.num_sequences(); ++sequence) {
    const auto i = static_cast<size_t>(sequence);
    const SequencePages pages{&params.spec, &batch, sequence};
    int64_t position = FirstPosition(batch, i);
    for (int row = batch.query_starts[i]; row < batch.query_starts[i + 1]; ++row, ++position) {
      function(params, pages, row, position);
    }
  }
}

}  // namespace

size_t ReferenceKvPageBytes(const KvSpec& spec) {
  return static_cast<size_t>(2 * kPageTokens * TokenElements(spec)) * sizeof(uint16_t);
}

void ReferenceRopeStoreKv(const RopeStoreKvParams& params) { ForEachRow(params, RopeStoreRow); }

void ReferenceAttention(const AttentionParams& params) { ForEachRow(params, AttendRow); }

void ReferenceCopyPage(const KvSpec& spec, std::byte* pages, int32_t from, int32_t to,
                       int num_tokens) {
  const size_t page_bytes = ReferenceKvPageBytes(spec);
  const auto copied_bytes =
      static_cast<size_t>(num_tokens * TokenElements(spec)) * sizeof(uint16_t);
  for (const size_t half : {size_t{0}, page_bytes / 2}) {
    std::memcpy(pages + static_cast<size_t>(to) * page_bytes + half,
                pages + static_cast<size_t>(from) * page_bytes + half, copied_bytes);
  }
}

}  // namespace tessera
