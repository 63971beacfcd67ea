#pragma once

#include <cstdint>
#include <string>

#include "kernels/dtype.h"

namespace tessera {

// A Llama model of random weights. The defaults fit every block format (rows of 256) and are small
// enough for the reference backend.
struct TinyModelOptions {
  uint64_t seed = 1;
  DType type = DType::kF32;  // of the matrices; norms are F32
  DType embedding_type = DType::kF32;
  int num_layers = 2;
  int hidden_dim = 256;
  int num_heads = 4;
  int num_kv_heads = 2;
  int head_dim = 64;
  int ffn_dim = 512;
  int max_context = 512;
  int vocab_size = 320;  // at least kMinTinyVocab
  double rope_base = 10000;
  bool has_llama3_rope = false;  // a rope_freqs.weight tensor
  bool is_tied = true;           // no output.weight
};

inline constexpr int kMinTinyVocab = 288;

// The bytes of a GGUF file, the same for the same options. It has a byte-level BPE vocabulary of 3
// special tokens (0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>, the end of a turn), the 256 bytes
// and a few merges, so that the whole daemon runs on it.
std::string MakeTinyModel(const TinyModelOptions& options);

}  // namespace tessera
