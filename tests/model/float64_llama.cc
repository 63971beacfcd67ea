#include "tests/model/float64_llama.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/dequantize.h"

namespace tessera {

Float64Llama::Float64Llama(const GgufFile& file, const ModelConfig& config) : config_(config) {
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<std::byte> bytes(tensor.size_bytes);
    CHECK(file.ReadRows(tensor, 0, tensor.rows(), bytes.data()).ok());
    std::vector<float>& values = tensors_[std::string(tensor.name)];
    values.resize(static_cast<size_t>(tensor.rows() * tensor.cols()));
    DequantizeRow(tensor.type, bytes.data(), tensor.rows() * tensor.cols(), values.data());
  }
}

Float64Llama::Vector Float64Llama::Multiply(const std::string& weight, const Vector& x) const {
  const std::vector<float>& values = tensors_.at(weight);
  Vector out(values.size() / x.size());
  for (size_t row = 0; row < out.size(); ++row) {
    for (size_t i = 0; i < x.size(); ++i) out[row] += x[i] * double{values[row * x.size() + i]};
  }
  return out;
}

Float64Llama::Vector Float64Llama::Norm(const std::string& weight, const Vector& x) const {
  double sum = 0;
  for (double value : x) sum += value * value;
  const double rms = std::sqrt(sum / static_cast<double>(x.size()) + double{config_.norm_epsilon});
  Vector out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] / rms * double{tensors_.at(weight)[i]};
  return out;
}

void Float64Llama::Rotate(int position, double* head) const {
  const auto divisors = tensors_.find("rope_freqs.weight");
  for (int i = 0; i < config_.rope_dim / 2; ++i) {
    double angle = position * std::pow(config_.rope_base, -2.0 * i / config_.rope_dim);
    angle /= double{config_.rope_factor};
    if (divisors != tensors_.end()) angle /= double{divisors->second[i]};
    double* const pair = head + int64_t{2} * i;
    const double a = pair[0];
    const double b = pair[1];
    pair[0] = a * std::cos(angle) - b * std::sin(angle);
    pair[1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

// The last of `keys` is the query's own.
Float64Llama::Vector Float64Llama::Attend(const Vector& q, const std::vector<Vector>& keys,
                                          const std::vector<Vector>& values) const {
  const int dim = config_.head_dim;
  const int window = config_.attention_window;
  const size_t first = window > 0 && std::ssize(keys) > window ? keys.size() - window : 0;
  Vector out(q.size());
  for (int head = 0; head < config_.num_heads; ++head) {
    const int kv_head = head * config_.num_kv_heads / config_.num_heads;
    Vector weights;
    for (size_t j = first; j < keys.size(); ++j) {
      double score = 0;
      for (int d = 0; d < dim; ++d) score += q[head * dim + d] * keys[j][kv_head * dim + d];
      weights.push_back(score * double{config_.attention_scale});
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - max);
    for (size_t j = first; j < keys.size(); ++j) {
      for (int d = 0; d < dim; ++d) {
        out[head * dim + d] += weights[j - first] / sum * values[j][kv_head * dim + d];
      }
    }
  }
  return out;
}

Float64Llama::Vector Float64Llama::FeedForward(const std::string& block, const Vector& x) const {
  Vector gate = Multiply(block + "ffn_gate.weight", x);
  const Vector up = Multiply(block + "ffn_up.weight", x);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
  return Multiply(block + "ffn_down.weight", gate);
}

std::vector<std::vector<double>> Float64Llama::Forward(const std::vector<TokenId>& tokens) const {
  const auto round_to_half = [](Vector x) {
    for (double& v : x) v = double{HalfToFloat(FloatToHalfFinite(static_cast<float>(v)))};
    return x;
  };
  const auto add = [](const Vector& x, Vector* residual) {
    for (size_t i = 0; i < x.size(); ++i) (*residual)[i] += x[i];
  };
  const auto num_layers = static_cast<size_t>(config_.num_layers);
  std::vector<std::vector<Vector>> keys(num_layers);
  std::vector<std::vector<Vector>> values(num_layers);
  std::vector<Vector> logits;
  for (int position = 0; position < std::ssize(tokens); ++position) {
    const float* embedding =
        &tensors_.at("token_embd.weight")[int64_t{tokens[position]} * config_.hidden_dim];
    Vector x(embedding, embedding + config_.hidden_dim);
    for (size_t layer = 0; layer < num_layers; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      const Vector normed = Norm(block + "attn_norm.weight", x);
      Vector q = Multiply(block + "attn_q.weight", normed);
      Vector k = Multiply(block + "attn_k.weight", normed);
      for (size_t i = 0; i < q.size(); i += config_.head_dim) Rotate(position, &q[i]);
      for (size_t i = 0; i < k.size(); i += config_.head_dim) Rotate(position, &k[i]);
      keys[layer].push_back(round_to_half(k));
      values[layer].push_back(round_to_half(Multiply(block + "attn_v.weight", normed)));
      add(Multiply(block + "attn_output.weight", Attend(q, keys[layer], values[layer])), &x);
      add(FeedForward(block, Norm(block + "ffn_norm.weight", x)), &x);
    }
    const bool is_tied = tensors_.find("output.weight") == tensors_.end();
    logits.push_back(
        Multiply(is_tied ? "token_embd.weight" : "output.weight", Norm("output_norm.weight", x)));
  }
  return logits;
}

}  // namespace tessera
