#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace tessera {

using TokenId = int32_t;

// Stands for the token chosen last for a slot where nobody knows yet which one that is: the device
// looks it up. Negative, as no id is.
constexpr TokenId LastTokenOf(int32_t slot) { return ~slot; }
constexpr bool IsLastToken(TokenId token) { return token < 0; }
constexpr int32_t SlotOfLastToken(TokenId token) { return ~token; }

// How a sequence's next token is chosen from its logits. The order in which these apply and their
// valid ranges: docs/sampling.md. Values here are already validated.
struct SamplingParams {
  float temperature = 1.0f;         // below 1e-5: argmax
  int top_k = 0;                    // 0 or -1: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // over prompt and output
  float frequency_penalty = 0.0f;   // over output
  float presence_penalty = 0.0f;    // over output
  uint64_t seed = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;

  bool has_penalties() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
};

}  // namespace tessera
