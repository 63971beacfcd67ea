#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/sampling_params.h"
#include "model/config.h"
#include "model/gguf.h"

namespace tessera {

// A Llama's forward pass in double, as plainly as it can be written, over the dequantised tensors
// of a file. Shares nothing with model/ and kernels/ but the file reader and DequantizeRow: in
// particular it rotates the pairs (2 i, 2 i + 1) of the file's own row order. Keys and values are
// rounded to f16, as docs/numerics.md says of the CPU.
class Float64Llama {
 public:
  Float64Llama(const GgufFile& file, const ModelConfig& config);

  // Logits behind every token: [tokens.size()][vocab_size].
  std::vector<std::vector<double>> Forward(const std::vector<TokenId>& tokens) const;

 private:
  using Vector = std::vector<double>;

  Vector Multiply(const std::string& weight, const Vector& x) const;
  Vector Norm(const std::string& weight, const Vector& x) const;
  void Rotate(int position, double* head) const;
  Vector Attend(const Vector& q, const std::vector<Vector>& keys,
                const std::vector<Vector>& values) const;
  Vector FeedForward(const std::string& block, const Vector& x) const;

  const ModelConfig config_;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace tessera
