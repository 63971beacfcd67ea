#include "scheduler/ngram_index.h"

#include <algorithm>
#include <bit>

#include "scheduler/token_hash.h"

namespace tessera {

int NgramIndex::FindContinuation(std::span<const TokenId> tokens) {
  const int size = static_cast<int>(tokens.size());
  if (size <= kNgram) return -1;
  Index(tokens);
  const int end = EntryOf(tokens, size);
  if (end == 0) return -1;
  const auto last = tokens.last(kNgram);
  return std::ranges::equal(last, tokens.subspan(end - kNgram, kNgram)) ? end : -1;
}

// All runs but the last one, which would find itself.
void NgramIndex::Index(std::span<const TokenId> tokens) {
  const size_t num_entries = std::clamp(std::bit_ceil(tokens.size()), kMinEntries, kMaxEntries);
  if (latest_.size() < num_entries) {
    latest_.assign(num_entries, 0);
    num_indexed_ = 0;
  }
  const int end = static_cast<int>(tokens.size()) - 1;
  for (int i = std::max(num_indexed_ + 1, kNgram); i <= end; ++i) EntryOf(tokens, i) = i;
  num_indexed_ = end;
}

int32_t& NgramIndex::EntryOf(std::span<const TokenId> tokens, int end) {
  uint64_t hash = 0;
  for (const TokenId token : tokens.subspan(end - kNgram, kNgram)) {
    hash = MixHash(hash, static_cast<uint64_t>(token));
  }
  return latest_[hash & (latest_.size() - 1)];
}

}  // namespace tessera
