#include "tests/support/tiny_model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/dequantize.h"
#include "tests/support/gguf_writer.h"

namespace tessera {
namespace {

// SplitMix64: the same numbers with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  double Uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(Next() >> 11) * 0x1p-53);
  }

 private:
  uint64_t state_;
};

// Random bytes in a block are random quants and scales. These give the block's 16-bit scales values
// for which the elements have mean 0 and a standard deviation of about `1 / deviation` of d.
struct BlockShape {
  size_t d_offset;
  double deviation;  // of an element, in units of d
  double minimum;    // the field behind d, in units of d; 0: there is none
};

BlockShape ShapeOf(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return {0, 74, 0};
    case DType::kQ4_0:
      return {0, 4.6, 0};
    case DType::kQ4_1:
      return {0, 4.6, -7.5};
    case DType::kQ5_0:
      return {0, 9.2, 0};
    case DType::kQ5_1:
      return {0, 9.2, -15.5};
    case DType::kQ4_K:
      return {0, 255, 7.5};
    case DType::kQ5_K:
      return {0, 514, 15.5};
    case DType::kQ6_K:
      return {208, 1366, 0};
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      break;
  }
  CHECK(false) << Name(type) << " has no blocks";
  return {};
}

void PutHalf(double value, char* out) {
  const uint16_t half = FloatToHalfFinite(static_cast<float>(value));
  std::memcpy(out, &half, sizeof(half));
}

void FillBlock(DType type, double deviation, Random* random, char* block) {
  for (int i = 0; i < BlockBytes(type); ++i) block[i] = static_cast<char>(random->Next());
  const BlockShape shape = ShapeOf(type);
  // Of either sign: formats without a minimum have one negative quant more than positive ones, and
  // the sum of all those would drown what the tokens say.
  const double sign = random->Next() % 2 == 0 ? 1 : -1;
  const double d = sign * random->Uniform(0.5, 1.5) * deviation / shape.deviation;
  PutHalf(d, block + shape.d_offset);
  if (shape.minimum != 0) PutHalf(d * shape.minimum, block + shape.d_offset + 2);
}

void FillFloat(DType type, double deviation, Random* random, char* out) {
  const double kUniformDeviation = std::sqrt(1.0 / 3);  // of -1 to 1
  const auto value = static_cast<float>(random->Uniform(-1, 1) * deviation / kUniformDeviation);
  if (type == DType::kF16) return PutHalf(value, out);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (type == DType::kF32) {
    std::memcpy(out, &bits, sizeof(bits));
  } else {
    const auto bf16 = static_cast<uint16_t>(bits >> 16);
    std::memcpy(out, &bf16, sizeof(bf16));
  }
}

class TinyModelWriter {
 public:
  explicit TinyModelWriter(const TinyModelOptions& options)
      : options_(options), random_(options.seed) {}

  std::string Write() {
    CHECK_GE(options_.vocab_size, kMinTinyVocab);
    AddConfig();
    AddVocabulary();
    AddTensors();
    return writer_.Build();
  }

 private:
  void AddConfig() {
    const auto count = [](int value) { return static_cast<uint32_t>(value); };
    writer_.Add("general.architecture", "llama");
    writer_.Add("general.name", "Tiny random llama");
    writer_.Add("llama.block_count", count(options_.num_layers));
    writer_.Add("llama.context_length", count(options_.max_context));
    writer_.Add("llama.embedding_length", count(options_.hidden_dim));
    writer_.Add("llama.feed_forward_length", count(options_.ffn_dim));
    writer_.Add("llama.attention.head_count", count(options_.num_heads));
    writer_.Add("llama.attention.head_count_kv", count(options_.num_kv_heads));
    writer_.Add("llama.attention.key_length", count(options_.head_dim));
    writer_.Add("llama.attention.value_length", count(options_.head_dim));
    writer_.Add("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    writer_.Add("llama.rope.dimension_count", count(options_.head_dim));
    writer_.Add("llama.rope.freq_base", static_cast<float>(options_.rope_base));
    writer_.Add("llama.vocab_size", count(options_.vocab_size));
  }

  // The printable stand-in that GPT-2's vocabulary files use for a byte, in UTF-8.
  static std::string ByteSymbol(int byte) {
    const auto is_printable = [](int b) {
      return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    };
    int code_point = byte;
    if (!is_printable(byte)) {
      code_point = 256;
      for (int b = 0; b < byte; ++b) code_point += is_printable(b) ? 0 : 1;
    }
    if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
    return {static_cast<char>(0xC0 | (code_point >> 6)),
            static_cast<char>(0x80 | (code_point & 0x3F))};
  }

  void AddVocabulary() {
    constexpr int32_t kNormal = 1;
    constexpr int32_t kControl = 3;
    constexpr int32_t kUnused = 5;
    const std::string space = ByteSymbol(' ');
    const std::vector<std::pair<std::string, std::string>> merges = {
        {"t", "h"}, {"th", "e"}, {space, "a"}, {space, "the"},     {"i", "n"},
        {"e", "r"}, {"o", "n"},  {space, "w"}, {"r", "e"},         {"a", "t"},
        {"o", "u"}, {"in", "g"}, {"a", "n"},   {space + "a", "n"}, {"l", "l"},
        {"s", "t"}, {"o", "r"},  {space, "s"}, {"e", "n"},         {"e", "s"}};
    std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    std::vector<int32_t> types(tokens.size(), kControl);
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteSymbol(byte));
    std::vector<std::string> merge_lines;
    for (const auto& [left, right] : merges) {
      tokens.push_back(left + right);
      merge_lines.push_back(absl::StrCat(left, " ", right));
    }
    types.resize(tokens.size(), kNormal);
    while (tokens.size() < static_cast<size_t>(options_.vocab_size)) {
      tokens.push_back("[UNUSED_" + std::to_string(tokens.size()) + "]");
    }
    types.resize(tokens.size(), kUnused);
    AddTokenizer(tokens, types, merge_lines);
  }

  void AddTokenizer(const std::vector<std::string>& tokens, const std::vector<int32_t>& types,
                    const std::vector<std::string>& merges) {
    writer_.Add("tokenizer.ggml.model", "gpt2");
    writer_.Add("tokenizer.ggml.pre", "smollm");
    writer_.Add("tokenizer.ggml.tokens", std::span(tokens));
    writer_.Add("tokenizer.ggml.token_type", std::span(types));
    writer_.Add("tokenizer.ggml.merges", std::span(merges));
    writer_.Add("tokenizer.ggml.bos_token_id", 1u);
    writer_.Add("tokenizer.ggml.eos_token_id", 2u);
    writer_.Add("tokenizer.ggml.add_bos_token", false);
    writer_.Add("tokenizer.chat_template",
                "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
  }

  void AddTensors() {
    const int hidden = options_.hidden_dim;
    // Logits spread by about 2.5, so that a best token stands out.
    const double embedding_deviation = 2.5 / std::sqrt(hidden);
    AddMatrix("token_embd.weight", options_.embedding_type, options_.vocab_size, hidden,
              embedding_deviation);
    if (options_.has_llama3_rope) AddRopeDivisors();
    for (int layer = 0; layer < options_.num_layers; ++layer) {
      AddLayer("blk." + std::to_string(layer) + ".");
    }
    AddNorm("output_norm.weight", hidden);
    if (!options_.is_tied) {
      AddMatrix("output.weight", options_.type, options_.vocab_size, hidden, embedding_deviation);
    }
  }

  void AddLayer(const std::string& prefix) {
    const int hidden = options_.hidden_dim;
    const int q_rows = options_.num_heads * options_.head_dim;
    const int kv_rows = options_.num_kv_heads * options_.head_dim;
    AddNorm(prefix + "attn_norm.weight", hidden);
    AddLinear(prefix + "ffn_down.weight", hidden, options_.ffn_dim);
    AddLinear(prefix + "ffn_gate.weight", options_.ffn_dim, hidden);
    AddLinear(prefix + "ffn_up.weight", options_.ffn_dim, hidden);
    AddNorm(prefix + "ffn_norm.weight", hidden);
    AddLinear(prefix + "attn_k.weight", kv_rows, hidden);
    AddLinear(prefix + "attn_output.weight", hidden, q_rows);
    AddLinear(prefix + "attn_q.weight", q_rows, hidden);
    AddLinear(prefix + "attn_v.weight", kv_rows, hidden);
  }

  void AddLinear(const std::string& name, int rows, int cols) {
    AddMatrix(name, options_.type, rows, cols, 1 / std::sqrt(cols));
  }

  void AddMatrix(const std::string& name, DType type, int rows, int cols, double deviation) {
    CHECK(cols % BlockElements(type) == 0) << name << " has rows of " << cols;
    std::string data(static_cast<size_t>(rows) * RowBytes(type, cols), '\0');
    const auto block_bytes = static_cast<size_t>(BlockBytes(type));
    for (size_t i = 0; i < data.size(); i += block_bytes) {
      if (IsQuantized(type)) {
        FillBlock(type, deviation, &random_, &data[i]);
      } else {
        FillFloat(type, deviation, &random_, &data[i]);
      }
    }
    writer_.AddTensor(name, type, {cols, rows}, std::move(data));
  }

  void AddVector(const std::string& name, const std::vector<float>& values) {
    std::string data(values.size() * sizeof(float), '\0');
    std::memcpy(data.data(), values.data(), data.size());
    writer_.AddTensor(name, DType::kF32, {static_cast<int64_t>(values.size())}, std::move(data));
  }

  void AddNorm(const std::string& name, int size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = static_cast<float>(random_.Uniform(0.5, 1.5));
    AddVector(name, values);
  }

  // Llama 3's long-context scaling: high frequencies stay, low ones are divided by 8.
  void AddRopeDivisors() {
    std::vector<float> divisors(static_cast<size_t>(options_.head_dim) / 2);
    for (size_t i = 0; i < divisors.size(); ++i) {
      const double share = static_cast<double>(i) / static_cast<double>(divisors.size());
      divisors[i] = share < 0.25 ? 1.0f : share > 0.75 ? 8.0f : 3.0f;
    }
    AddVector("rope_freqs.weight", divisors);
  }

  const TinyModelOptions& options_;
  Random random_;
  GgufWriter writer_;
};

}  // namespace

std::string MakeTinyModel(const TinyModelOptions& options) {
  return TinyModelWriter(options).Write();
}

}  // namespace tessera
