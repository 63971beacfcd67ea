#include "model/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "model/utf8.h"

namespace tessera {
namespace {

uint64_t PairKey(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

void PairHeap::Push(int32_t rank, int32_t position) {
  heap_.push_back(PairKey(rank, position));
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

bool PairHeap::Pop(int32_t* rank, int32_t* position) {
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  *rank = static_cast<int32_t>(heap_.back() >> 32);
  *position = static_cast<int32_t>(heap_.back() & 0xFFFFFFFFu);
  heap_.pop_back();
  return true;
}

void PairBuckets::Start(size_t num_ranks, size_t num_positions) {
  heads_.resize(num_ranks, -1);
  non_empty_.resize((num_ranks + 63) / 64, 0);
  entries_.clear();
  entries_.reserve(2 * num_positions);  // rarely more
  word_ = 0;
}

void PairBuckets::Push(int32_t rank, int32_t position) {
  entries_.push_back({.position = position, .next = heads_[rank]});
  heads_[rank] = static_cast<int32_t>(entries_.size() - 1);
  non_empty_[static_cast<size_t>(rank) / 64] |= uint64_t{1} << (rank % 64);
}

bool PairBuckets::Pop(int32_t* rank, int32_t* position) {
  while (word_ < non_empty_.size() && non_empty_[word_] == 0) ++word_;
  if (word_ == non_empty_.size()) return false;
  const int bit = std::countr_zero(non_empty_[word_]);
  *rank = static_cast<int32_t>(word_) * 64 + bit;
  const Entry& entry = entries_[heads_[*rank]];
  *position = entry.position;
  heads_[*rank] = entry.next;
  if (entry.next < 0) non_empty_[word_] &= ~(uint64_t{1} << bit);
  return true;
}

Bpe::Bpe(const Vocabulary& vocabulary)
    : byte_tokens_(vocabulary.byte_tokens()),
      merges_(vocabulary.merges().begin(), vocabulary.merges().end()) {
  IndexMerges();
  is_layered_ = FindIsLayered();
  if (!is_layered_) {
    RemoveUnreachableMerges(vocabulary);
    IndexMerges();
    is_layered_ = FindIsLayered();
  }
  EncodeUnknownBytes();
}

void Bpe::IndexMerges() {
  rank_of_pair_.clear();
  rank_of_pair_.reserve(merges_.size());
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    rank_of_pair_[PairKey(merges_[rank].left, merges_[rank].right)] = static_cast<int32_t>(rank);
  }
}

bool Bpe::FindIsLayered() const {
  absl::flat_hash_map<TokenId, size_t, SeededIntegerHash> first_rank_that_takes;
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    first_rank_that_takes.try_emplace(merges_[rank].left, rank);
    first_rank_that_takes.try_emplace(merges_[rank].right, rank);
  }
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const auto taken = first_rank_that_takes.find(merges_[rank].result);
    if (taken != first_rank_that_takes.end() && taken->second <= rank) return false;
  }
  return true;
}

// Wherever merge (l, r) applies, the bytes under l and r were merged among themselves alone until
// then, in the same order as if there were no other bytes. So it applies somewhere exactly if it is
// what makes the last token of the text "lr".
void Bpe::RemoveUnreachableMerges(const Vocabulary& vocabulary) {
  BpeScratch scratch;
  std::vector<TokenId> tokens;
  std::string text;
  std::vector<BpeMerge> reachable;
  for (const BpeMerge& merge : merges_) {
    text.assign(vocabulary.Bytes(merge.left)).append(vocabulary.Bytes(merge.right));
    tokens.clear();
    Encode(text, &scratch, &tokens);
    if (tokens.size() == 1 && scratch.last_merge_left_ == merge.left) reachable.push_back(merge);
  }
  merges_ = std::move(reachable);
}

void Bpe::EncodeUnknownBytes() {
  for (const char byte : kReplacementCharacter) {
    if (byte_tokens_[static_cast<uint8_t>(byte)] < 0) return;
  }
  BpeScratch scratch;
  Encode(kReplacementCharacter, &scratch, &replacement_tokens_);
}

void Bpe::Encode(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* tokens) const {
  if (piece.empty()) return;
  scratch->last_pair_ = BpeScratch::kNoPair;
  StartPiece(piece, scratch);
  if (is_layered_ && piece.size() >= kMinLongPieceBytes) {
    scratch->buckets_.Start(merges_.size(), piece.size());
    MergePairs(&scratch->buckets_, scratch);
  } else {
    MergePairs(&scratch->heap_, scratch);
  }
  for (int32_t i = 0; i != BpeScratch::kNone; i = scratch->symbols_[i].next) {
    const TokenId token = scratch->symbols_[i].token;
    if (token >= 0) {
      tokens->push_back(token);
    } else {
      tokens->insert(tokens->end(), replacement_tokens_.begin(), replacement_tokens_.end());
    }
  }
}

void Bpe::StartPiece(std::string_view piece, BpeScratch* scratch) const {
  CHECK_LT(piece.size(), size_t{std::numeric_limits<int32_t>::max()});
  scratch->symbols_.resize(piece.size());
  const int32_t size = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < size; ++i) {
    scratch->symbols_[i] = {.token = byte_tokens_[static_cast<uint8_t>(piece[i])],
                            .previous = i - 1,
                            .next = i + 1 < size ? i + 1 : BpeScratch::kNone};
  }
}

template <typename Queue>
void Bpe::MergePairs(Queue* queue, BpeScratch* scratch) const {
  const int32_t size = static_cast<int32_t>(scratch->symbols_.size());
  for (int32_t i = 0; i < size; ++i) FindPair(i, queue, scratch);
  int32_t rank = 0;
  int32_t position = 0;
  while (queue->Pop(&rank, &position)) {
    ++scratch->num_operations_;
    const bool is_stale = scratch->symbols_[position].rank != rank;
    if (is_stale) continue;
    if (!Queue::kLeftmostFirst && merges_[rank].left == merges_[rank].right) {
      MergeRun(position, queue, scratch);
    } else {
      MergePair(position, queue, scratch);
    }
  }
}

// A run of one token that merges with itself pairs up from the left: all of it at once, so that
// each run is walked once however its pairs are ordered in the queue.
template <typename Queue>
void Bpe::MergeRun(int32_t position, Queue* queue, BpeScratch* scratch) const {
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols_;
  const int32_t rank = symbols[position].rank;
  int32_t first = position;
  while (symbols[first].previous != BpeScratch::kNone &&
         symbols[symbols[first].previous].rank == rank) {
    first = symbols[first].previous;
    ++scratch->num_operations_;
  }
  int32_t end = first;
  while (end != BpeScratch::kNone && symbols[end].rank == rank) {
    JoinWithNext(end, scratch);
    end = symbols[end].next;
  }
  if (symbols[first].previous != BpeScratch::kNone)
    FindPair(symbols[first].previous, queue, scratch);
  for (int32_t i = first; i != end; i = symbols[i].next) FindPair(i, queue, scratch);
}

template <typename Queue>
void Bpe::MergePair(int32_t position, Queue* queue, BpeScratch* scratch) const {
  JoinWithNext(position, scratch);
  const int32_t previous = scratch->symbols_[position].previous;
  if (previous != BpeScratch::kNone) FindPair(previous, queue, scratch);
  FindPair(position, queue, scratch);
}

void Bpe::JoinWithNext(int32_t position, BpeScratch* scratch) const {
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols_;
  BpeScratch::Symbol& left = symbols[position];
  BpeScratch::Symbol& right = symbols[left.next];
  ++scratch->num_operations_;
  scratch->last_merge_left_ = left.token;
  left.token = merges_[left.rank].result;
  left.next = right.next;
  right.rank = BpeScratch::kNoRank;
  if (right.next != BpeScratch::kNone) symbols[right.next].previous = position;
}

template <typename Queue>
void Bpe::FindPair(int32_t position, Queue* queue, BpeScratch* scratch) const {
  BpeScratch::Symbol& symbol = scratch->symbols_[position];
  symbol.rank = BpeScratch::kNoRank;
  if (symbol.next == BpeScratch::kNone) return;
  ++scratch->num_operations_;
  const uint64_t pair = PairKey(symbol.token, scratch->symbols_[symbol.next].token);
  if (pair != scratch->last_pair_) {
    const auto entry = rank_of_pair_.find(pair);
    scratch->last_pair_ = pair;
    scratch->last_rank_ = entry == rank_of_pair_.end() ? BpeScratch::kNoRank : entry->second;
  }
  symbol.rank = scratch->last_rank_;
  if (symbol.rank != BpeScratch::kNoRank) queue->Push(symbol.rank, position);
}

}  // namespace tessera
