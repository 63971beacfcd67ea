#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace tessera {

// A step in the making, of sequences whose tokens depend on their index and position alone, with
// pages scattered over a pool. What Rows() gives lives as long as this.
class RaggedStep {
 public:
  // Every sequence has room for pages_each pages of a pool of num_sequences * pages_each.
  RaggedStep(int num_sequences, int pages_each, int vocab_size)
      : num_sequences_(num_sequences), pages_each_(pages_each), vocab_size_(vocab_size) {}

  // The tokens at [first, end) of `sequence`, of which those at `selected` and behind it are
  // wanted. Each sequence once.
  void Add(int sequence, int first, int end, int selected) {
    for (int position = first; position < end; ++position) {
      if (position >= selected) selected_.push_back(static_cast<int32_t>(tokens_.size()));
      tokens_.push_back(TokenAt(sequence, position));
    }
    for (int page = 0; page * kPageTokens < end; ++page) {
      page_ids_.push_back(page * num_sequences_ + (sequence + page) % num_sequences_);
    }
    query_starts_.push_back(static_cast<int32_t>(tokens_.size()));
    kv_lengths_.push_back(end);
    page_starts_.push_back(static_cast<int32_t>(page_ids_.size()));
  }

  // Instead of the newest row's own.
  void ReplaceLast(TokenId token) { tokens_.back() = token; }

  StepRows Rows() {
    batch_ = {query_starts_, kv_lengths_, page_starts_, page_ids_};
    return {.tokens = tokens_, .batch = &batch_, .selected = selected_};
  }

  int num_pages() const { return num_sequences_ * pages_each_; }

 private:
  TokenId TokenAt(int sequence, int position) const {
    const auto mixed = static_cast<uint32_t>(sequence * 7919 + position) * 2654435761u;
    return static_cast<TokenId>((mixed >> 8) % static_cast<uint32_t>(vocab_size_));
  }

  const int num_sequences_;
  const int pages_each_;
  const int vocab_size_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> selected_;
  std::vector<int32_t> query_starts_ = {0};
  std::vector<int32_t> kv_lengths_;
  std::vector<int32_t> page_starts_ = {0};
  std::vector<int32_t> page_ids_;
  SequenceBatch batch_;
};

}  // namespace tessera
