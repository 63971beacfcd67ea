#pragma once

// Included by sample_kernels_{portable,avx2,avx512}.cc, each compiled for its own instruction set.

#include "kernels/cpu/sample_kernels.h"
#include "kernels/cpu/simd_integer.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/sampling.h"

namespace tessera {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kVectorsPerBlock = 4;
constexpr float kMinusInfinity = -__builtin_inff();

// Loads 16 scores from p, of which `available` exist; the others read as masked.
SIMD_INLINE F32x16 LoadScores(const float* p, int64_t available) {
  if (available >= kLanes) return Load(p);
  const int count = available > 0 ? static_cast<int>(available) : 0;
  return Select(FirstLanes(count), LoadFirst(p, count), F32x16::Broadcast(kMinusInfinity));
}

ScanResult Scan(const float* scores, int64_t num_tokens, float* block_max) {
  Mask16 all_finite = FirstLanes(16);
  F32x16 max = F32x16::Broadcast(kMinusInfinity);
  for (int64_t first = 0; first < num_tokens; first += kSampleBlock) {
    F32x16 in_block = F32x16::Broadcast(kMinusInfinity);
    for (int64_t i = first; i < first + kSampleBlock && i < num_tokens; i += kLanes) {
      const int64_t available = num_tokens - i;
      const F32x16 v = LoadScores(scores + i, available);
      in_block = Max(in_block, v);
      const Mask16 beyond = Not(FirstLanes(available < kLanes ? static_cast<int>(available) : 16));
      all_finite = And(all_finite, Or(IsFinite(v), beyond));
    }
    block_max[first / kSampleBlock] = ReduceMax(in_block);
    max = Max(max, in_block);
  }
  return {ReduceMax(max), MaskBits(all_finite) == 0xFFFF};
}

float Scale(const float* scores, int64_t num_tokens, float temperature, float* out,
            float* block_max) {
  const F32x16 divisor = F32x16::Broadcast(temperature);
  const F32x16 masked = F32x16::Broadcast(kMinusInfinity);
  const F32x16 highest = F32x16::Broadcast(kMaxScore);
  const F32x16 lowest = F32x16::Broadcast(-kMaxScore);
  F32x16 max = masked;
  for (int64_t first = 0; first < num_tokens; first += kSampleBlock) {
    F32x16 in_block = masked;
    for (int64_t i = first; i < first + kSampleBlock && i < num_tokens; i += kLanes) {
      const int64_t available = num_tokens - i;
      const F32x16 v = LoadScores(scores + i, available);
      const F32x16 scaled = Max(Min(v / divisor, highest), lowest);
      const F32x16 result = Select(Equal(v, masked), masked, scaled);
      in_block = Max(in_block, result);
      StoreFirst(out + i, result, available < kLanes ? static_cast<int>(available) : 16);
    }
    block_max[first / kSampleBlock] = ReduceMax(in_block);
    max = Max(max, in_block);
  }
  return ReduceMax(max);
}

ScoreRange Range(const float* scores, int64_t num_scores) {
  F32x16 min = F32x16::Broadcast(scores[0]);
  F32x16 max = min;
  for (int64_t i = 0; i < num_scores; i += kLanes) {
    const int64_t rest = num_scores - i;
    const F32x16 v = LoadScores(scores + i, rest);
    max = Max(max, v);
    min = Min(min, rest < kLanes ? Select(FirstLanes(static_cast<int>(rest)), v, min) : v);
  }
  return {-ReduceMax(F32x16::Zero() - min), ReduceMax(max)};
}

// A mass is high * 2^20 + low: both halves fit in a float's 24 bits, so that splitting is exact.
struct MassHalves {
  U32x16 high, low;
};

SIMD_INLINE MassHalves MassOf(F32x16 scores, F32x16 max) {
  const F32x16 half_scale = F32x16::Broadcast(0x1p20f);
  const F32x16 scaled = Exp2((scores - max) * F32x16::Broadcast(kLog2E)) * half_scale;
  const U32x16 high = Truncate(scaled);
  return {high, Truncate((scaled - SignedToFloat(high)) * half_scale)};
}

SIMD_INLINE uint64_t SumLanes(U32x16 a) {
  uint32_t lanes[kLanes];
  StoreU32(lanes, a);
  uint64_t sum = 0;
  for (const uint32_t lane : lanes) sum += lane;
  return sum;
}

uint64_t SumMasses(const float* scores, int64_t num_tokens, float max) {
  // A half is at most 2^20: 2,048 of them cannot overflow a 32-bit lane.
  constexpr int64_t kMaxPerLane = 2048;
  const F32x16 max16 = F32x16::Broadcast(max);
  uint64_t sum = 0;
  for (int64_t first = 0; first < num_tokens; first += kMaxPerLane * kLanes) {
    U32x16 high = U32x16::Broadcast(0);
    U32x16 low = U32x16::Broadcast(0);
    const int64_t past = first + kMaxPerLane * kLanes;
    const int64_t end = past < num_tokens ? past : num_tokens;
    for (int64_t i = first; i < end; i += kLanes) {
      const MassHalves mass = MassOf(LoadScores(scores + i, num_tokens - i), max16);
      high = high + mass.high;
      low = low + mass.low;
    }
    sum += (SumLanes(high) << 20) + SumLanes(low);
  }
  return sum;
}

void Masses(const float* scores, int64_t num_scores, float max, uint64_t* out) {
  uint32_t high[kLanes];
  uint32_t low[kLanes];
  for (int64_t i = 0; i < num_scores; i += kLanes) {
    const int64_t available = num_scores - i;
    const MassHalves mass = MassOf(LoadScores(scores + i, available), F32x16::Broadcast(max));
    StoreU32(high, mass.high);
    StoreU32(low, mass.low);
    for (int64_t j = 0; j < kLanes && j < available; ++j) {
      out[i + j] = (uint64_t{high[j]} << 20) + low[j];
    }
  }
}

int64_t Collect(const float* scores, int64_t num_tokens, const float* block_max, float bound,
                int32_t* ids) {
  const F32x16 bound16 = F32x16::Broadcast(bound);
  int64_t count = 0;
  for (int64_t first = 0; first < num_tokens; first += kSampleBlock) {
    if (block_max[first / kSampleBlock] < bound) continue;
    for (int64_t i = first; i < first + kSampleBlock && i < num_tokens; i += kLanes) {
      uint32_t bits = MaskBits(LessEqual(bound16, LoadScores(scores + i, num_tokens - i)));
      for (; bits != 0; bits &= bits - 1) {
        ids[count++] = static_cast<int32_t>(i + __builtin_ctz(bits));
      }
    }
  }
  return count;
}

void NoiseThresholds(const float* block_max, float best, float* thresholds) {
  // The slack covers the rounding of the logarithms and of score + noise.
  const F32x16 scores = Load(block_max);
  const F32x16 best16 = F32x16::Broadcast(best);
  const F32x16 slack =
      Fma(Abs(scores) + Abs(best16), F32x16::Broadcast(1e-5f), F32x16::Broadcast(1e-4f));
  const F32x16 needed = (best16 - scores) - slack;
  // Noise above `needed` takes -log u < e^-needed, hence 1 - u < e^-needed.
  const F32x16 distance =
      Exp2(needed * F32x16::Broadcast(-kLog2E)) * F32x16::Broadcast(1.0001f * 0x1p23f);
  const F32x16 never = F32x16::Broadcast(0x1p23f);
  const Mask16 unreachable = Less(F32x16::Broadcast(16.7f), needed);
  Store(thresholds, Select(unreachable, never, never - distance - F32x16::Broadcast(1.0f)));
}

// Philox4x32-10 of 16 counters (position, position, first_counter + lane, 0); base/philox.cc.
struct PhiloxVectors {
  U32x16 words[4];
};

SIMD_INLINE PhiloxVectors PhiloxSample(uint64_t seed, uint64_t position, uint32_t first_counter) {
  static constexpr uint32_t kLaneIds[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  U32x16 c0 = U32x16::Broadcast(static_cast<uint32_t>(position));
  U32x16 c1 = U32x16::Broadcast(static_cast<uint32_t>(position >> 32));
  U32x16 c2 = LoadU32(kLaneIds) + U32x16::Broadcast(first_counter);
  U32x16 c3 = U32x16::Broadcast(0);
  for (int round = 0; round < 10; ++round) {
    const WideProduct product0 = MultiplyWide(c0, 0xD2511F53u);
    const WideProduct product1 = MultiplyWide(c2, 0xCD9E8D57u);
    c0 = Xor(Xor(product1.high, c1), U32x16::Broadcast(key0));
    c1 = product1.low;
    c2 = Xor(Xor(product0.high, c3), U32x16::Broadcast(key1));
    c3 = product0.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

uint64_t DrawBlock(uint64_t seed, uint64_t position, uint32_t first_token, float threshold,
                   NoiseBlock* block) {
  const PhiloxVectors draws = PhiloxSample(seed, position, first_token / 4);
  const F32x16 threshold16 = F32x16::Broadcast(threshold);
  uint64_t bits = 0;
  for (int j = 0; j < kVectorsPerBlock; ++j) {
    StoreU32(block->words + j * kLanes, draws.words[j]);
    const F32x16 high_bits = SignedToFloat(ShiftRight<kWordShift>(draws.words[j]));
    bits |= uint64_t{MaskBits(LessEqual(threshold16, high_bits))} << (j * kLanes);
  }
  return bits;
}

void AddNoise(const float* scores, const uint32_t* words, float* totals) {
  const F32x16 high_bits = SignedToFloat(ShiftRight<kWordShift>(LoadU32(words)));
  const F32x16 uniform = (high_bits + F32x16::Broadcast(0.5f)) * F32x16::Broadcast(kUniformScale);
  const F32x16 exponential = F32x16::Zero() - Log(uniform);
  Store(totals, Load(scores) + (F32x16::Zero() - Log(exponential)));
}

}  // namespace
}  // namespace tessera
