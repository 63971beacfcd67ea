#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/seeded_hash.h"
#include "model/vocabulary.h"

namespace tessera {

class BpeScratch;

// Byte-pair merging of one piece: starting from its bytes, the pair of adjacent tokens with the
// lowest rank, the leftmost of several, becomes one token, until no pair has a merge.
//
// Takes linear time. A short piece keeps its pairs in a heap. A long one sorts them by rank into
// buckets, which is exact where the merges are layered: every merge that makes a token ranks before
// every merge that takes it. Then a merge of rank r only makes pairs of higher rank, so each rank
// can be finished at once and the order within a rank matters only in runs of one token. Trained
// vocabularies are layered, if need be after leaving out the merges that never apply; for one that
// is not, long pieces use the heap too, in time n log n.
//
// Immutable and shared by threads; each brings its own scratch.
class Bpe {
 public:
  explicit Bpe(const Vocabulary& vocabulary);

  // Appends the tokens of `piece`. A byte that the vocabulary has no token for becomes U+FFFD, or
  // nothing where that has none either. REQUIRES: piece.size() < 2^31.
  void Encode(std::string_view piece, BpeScratch* scratch, std::vector<TokenId>* tokens) const;

  bool is_layered() const { return is_layered_; }

 private:
  static constexpr size_t kMinLongPieceBytes = 4096;

  // Leaves out the merges that no text makes apply.
  void RemoveUnreachableMerges(const Vocabulary& vocabulary);
  void IndexMerges();
  bool FindIsLayered() const;

  void StartPiece(std::string_view piece, BpeScratch* scratch) const;
  template <typename Queue>
  void MergePairs(Queue* queue, BpeScratch* scratch) const;
  template <typename Queue>
  void MergeRun(int32_t position, Queue* queue, BpeScratch* scratch) const;
  template <typename Queue>
  void MergePair(int32_t position, Queue* queue, BpeScratch* scratch) const;
  void JoinWithNext(int32_t position, BpeScratch* scratch) const;
  template <typename Queue>
  void FindPair(int32_t position, Queue* queue, BpeScratch* scratch) const;
  void EncodeUnknownBytes();

  const std::array<TokenId, 256> byte_tokens_;
  std::vector<BpeMerge> merges_;  // by rank
  absl::flat_hash_map<uint64_t, int32_t, SeededIntegerHash> rank_of_pair_;
  std::vector<TokenId> replacement_tokens_;  // of U+FFFD
  bool is_layered_ = false;
};

// Pairs by rank, then position, from a binary heap.
class PairHeap {
 public:
  static constexpr bool kLeftmostFirst = true;

  void Push(int32_t rank, int32_t position);
  // The next pair; false if there is none.
  bool Pop(int32_t* rank, int32_t* position);

 private:
  std::vector<uint64_t> heap_;  // rank << 32 | position, smallest on top
};

// Pairs by rank, in any order within a rank. REQUIRES: no rank below one that was popped is pushed.
class PairBuckets {
 public:
  static constexpr bool kLeftmostFirst = false;

  // Makes room for ranks below `num_ranks`. REQUIRES: empty.
  void Start(size_t num_ranks, size_t num_positions);
  void Push(int32_t rank, int32_t position);
  bool Pop(int32_t* rank, int32_t* position);

 private:
  struct Entry {
    int32_t position = 0;
    int32_t next = -1;  // into entries_
  };

  std::vector<Entry> entries_;
  std::vector<int32_t> heads_;       // by rank, into entries_; -1: none
  std::vector<uint64_t> non_empty_;  // a bit a rank
  size_t word_ = 0;                  // of non_empty_: all before it are zero
};

// Working memory of Bpe::Encode, kept between pieces. Used by one thread.
class BpeScratch {
 public:
  // Pairs looked up, popped and joined so far: what the time is proportional to.
  uint64_t num_operations() const { return num_operations_; }

 private:
  friend class Bpe;
  static constexpr int32_t kNoRank = -1;
  static constexpr int32_t kNone = -1;
  static constexpr uint64_t kNoPair = ~uint64_t{0};  // of two bytes without tokens: has no rank

  // The tokens so far, a doubly linked list in the order of the text. A symbol stands at its first
  // byte's position; those merged into another are out of the list and have no rank.
  struct Symbol {
    TokenId token = -1;
    int32_t previous = kNone;
    int32_t next = kNone;
    int32_t rank = kNoRank;  // of the merge with the next
  };

  std::vector<Symbol> symbols_;
  PairHeap heap_;
  PairBuckets buckets_;
  uint64_t last_pair_ = kNoPair;  // looked up last: runs ask for the same again and again
  int32_t last_rank_ = kNoRank;   // its rank
  TokenId last_merge_left_ = -1;
  uint64_t num_operations_ = 0;
};

}  // namespace tessera
