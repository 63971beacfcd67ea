#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/step.h"

namespace tessera {

// Remembers where each run of kNgram tokens of one sequence stood last, so that what followed it
// can be proposed as what comes next ("prompt lookup decoding", Saxena 2023; vLLM's n-gram
// speculation). A table without chains: of runs with equal hashes the latest stays, and what is
// found is compared with the tokens themselves.
class NgramIndex {
 public:
  // Where the last kNgram tokens stood before: the index of the token that followed; -1: nowhere.
  // `tokens` must be those of the last call or more. Amortised O(1) a new token; allocates when
  // their number doubles, at most kMaxEntries * 4 bytes.
  int FindContinuation(std::span<const TokenId> tokens);

 private:
  static constexpr int kNgram = 3;
  static constexpr size_t kMinEntries = 256;
  static constexpr size_t kMaxEntries = 1 << 16;

  void Index(std::span<const TokenId> tokens);
  // The entry of the run that ends before `end`.
  int32_t& EntryOf(std::span<const TokenId> tokens, int end);

  std::vector<int32_t> latest_;  // by hash, a power of two: the end of the run; 0: none
  int num_indexed_ = 0;          // runs that end at or before it are known
};

}  // namespace tessera
