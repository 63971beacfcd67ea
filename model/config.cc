#include "model/config.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

// Far above any model of this architecture; products of two of them fit 64 bits with room.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 256;  // what the kernels have tiles for
constexpr int64_t kHeadDimStep = 8;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxContext = int64_t{1} << 20;

constexpr char kArchitecture[] = "llama";
constexpr char kSupportedArchitectures[] = "llama";

// Reads the keys under one architecture's prefix.
class KeyReader {
 public:
  explicit KeyReader(const GgufFile& file) : file_(file) {}

  static std::string Key(const char* suffix) { return absl::StrCat(kArchitecture, ".", suffix); }
  bool Has(const char* suffix) const { return file_.Has(Key(suffix)); }

  absl::StatusOr<int> Int(const char* suffix, int64_t min, int64_t max) const {
    ASSIGN_OR_RETURN(const uint64_t value, file_.Unsigned(Key(suffix)));
    return InRange(suffix, value, min, max);
  }

  absl::StatusOr<int> IntOr(const char* suffix, int fallback, int64_t min, int64_t max) const {
    return Has(suffix) ? Int(suffix, min, max) : fallback;
  }

  // A count that a file may give once or once a layer; only equal layers are supported.
  absl::StatusOr<int> PerLayerInt(const char* suffix, int num_layers, int64_t min,
                                  int64_t max) const {
    if (!file_.IsArray(Key(suffix))) return Int(suffix, min, max);
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, file_.Integers(Key(suffix)));
    if (values.size() != static_cast<size_t>(num_layers)) {
      return Wrong(suffix, absl::StrCat("one value a layer, ", num_layers),
                   absl::StrCat(values.size()));
    }
    for (int64_t value : values) {
      if (value != values.front()) {
        return absl::UnimplementedError(
            absl::StrCat(file_.path(), ": ", Key(suffix), ": expected the same value in every ",
                         "layer, got ", values.front(), " and ", value));
      }
    }
    return InRange(suffix, static_cast<uint64_t>(values.front()), min, max);
  }

  absl::StatusOr<double> Float(const char* suffix, double min, double max) const {
    ASSIGN_OR_RETURN(const double value, file_.Float(Key(suffix)));
    if (!(value >= min && value <= max)) {
      return Wrong(suffix, absl::StrCat(min, " to ", max), absl::StrCat(value));
    }
    return value;
  }

  absl::StatusOr<double> FloatOr(const char* suffix, double fallback, double min,
                                 double max) const {
    return Has(suffix) ? Float(suffix, min, max) : fallback;
  }

  absl::Status Wrong(const char* suffix, const std::string& expected,
                     const std::string& actual) const {
    return absl::InvalidArgumentError(
        absl::StrCat(file_.path(), ": ", Key(suffix), ": expected ", expected, ", got ", actual));
  }

 private:
  absl::StatusOr<int> InRange(const char* suffix, uint64_t value, int64_t min, int64_t max) const {
    if (value > static_cast<uint64_t>(max) || static_cast<int64_t>(value) < min) {
      return Wrong(suffix, absl::StrCat(min, " to ", max), absl::StrCat(value));
    }
    return static_cast<int>(value);
  }

  const GgufFile& file_;
};

absl::Status CheckArchitecture(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  if (architecture == kArchitecture) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      file.path(), ": general.architecture: expected one of: ", kSupportedArchitectures, "; got '",
      std::string(architecture.substr(0, 64)), "'"));
}

// Variants under the same architecture name whose output would be silently wrong.
absl::Status RefuseVariants(const GgufFile& file, const KeyReader& keys) {
  ASSIGN_OR_RETURN(const int num_experts,
                   keys.IntOr("expert_count", 0, 0, std::numeric_limits<int>::max()));
  if (num_experts > 0) {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": ", KeyReader::Key("expert_count"),
                                                 ": expected 0 (no mixture of experts), got ",
                                                 num_experts));
  }
  for (const char* suffix :
       {"attention.sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping",
        "logit_scale", "residual_scale", "embedding_scale", "rope.scale_linear"}) {
    if (keys.Has(suffix)) {
      return absl::UnimplementedError(
          absl::StrCat(file.path(), ": ", KeyReader::Key(suffix), ": not supported"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadAttention(const GgufFile& file, const KeyReader& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->num_heads,
                   keys.PerLayerInt("attention.head_count", config->num_layers, 1, kMaxHeads));
  config->num_kv_heads = config->num_heads;
  if (keys.Has("attention.head_count_kv")) {
    ASSIGN_OR_RETURN(config->num_kv_heads,
                     keys.PerLayerInt("attention.head_count_kv", config->num_layers, 1, kMaxHeads));
  }
  if (config->num_heads % config->num_kv_heads != 0) {
    return keys.Wrong("attention.head_count_kv",
                      absl::StrCat("a divisor of head_count, ", config->num_heads),
                      absl::StrCat(config->num_kv_heads));
  }
  ASSIGN_OR_RETURN(
      config->head_dim,
      keys.IntOr("attention.key_length", config->hidden_dim / config->num_heads, 2, kMaxHeadDim));
  if (config->head_dim < kHeadDimStep || config->head_dim > kMaxHeadDim ||
      config->head_dim % kHeadDimStep != 0) {
    return absl::UnimplementedError(absl::StrCat(
        file.path(), ": ", KeyReader::Key("attention.key_length"), ": expected a multiple of ",
        kHeadDimStep, ", ", kHeadDimStep, " to ", kMaxHeadDim, ", got ", config->head_dim));
  }
  ASSIGN_OR_RETURN(const int value_length,
                   keys.IntOr("attention.value_length", config->head_dim, 0, kMaxHeadDim));
  if (value_length != config->head_dim) {
    return keys.Wrong("attention.value_length",
                      absl::StrCat("the length of a key, ", config->head_dim),
                      absl::StrCat(value_length));
  }
  ASSIGN_OR_RETURN(const double scale, keys.FloatOr("attention.scale", 0, 0, 1e6));
  config->attention_scale = static_cast<float>(scale > 0 ? scale : 1 / std::sqrt(config->head_dim));
  ASSIGN_OR_RETURN(config->attention_window,
                   keys.IntOr("attention.sliding_window", 0, 0, kMaxContext));
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFile& file, const KeyReader& keys, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->rope_dim,
                   keys.IntOr("rope.dimension_count", config->head_dim, 2, config->head_dim));
  if (config->rope_dim % 2 != 0) {
    return keys.Wrong("rope.dimension_count", "an even number", absl::StrCat(config->rope_dim));
  }
  ASSIGN_OR_RETURN(config->rope_base, keys.FloatOr("rope.freq_base", 10000, 1, 1e12));
  std::string_view scaling = "none";
  const std::string type_key = KeyReader::Key("rope.scaling.type");
  if (file.Has(type_key)) {
    ASSIGN_OR_RETURN(scaling, file.String(type_key));
  } else if (keys.Has("rope.scaling.factor")) {
    scaling = "linear";
  }
  if (scaling == "linear") {
    ASSIGN_OR_RETURN(const double factor, keys.FloatOr("rope.scaling.factor", 1, 1, 1e6));
    config->rope_factor = static_cast<float>(factor);
  } else if (scaling != "none") {
    return absl::UnimplementedError(absl::StrCat(
        file.path(), ": ", type_key,
        ": expected none or linear (llama3 scaling is the tensor rope_freqs.weight), got '",
        std::string(scaling.substr(0, 64)), "'"));
  }
  return absl::OkStatus();
}

// The embedding table says how many tokens there are; whatever else counts them must agree.
absl::Status ReadVocabSize(const GgufFile& file, const KeyReader& keys, ModelConfig* config) {
  const GgufTensor* table = file.FindTensor("token_embd.weight");
  if (table == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(file.path(), ": token_embd.weight: expected a tensor, got none"));
  }
  if (table->num_dims != 2 || table->dims[1] < 1 || table->dims[1] > kMaxVocab) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": token_embd.weight: expected 1 to ", kMaxVocab, " rows, got ",
                     table->num_dims, " dimensions, ", table->dims[1], " rows"));
  }
  config->vocab_size = static_cast<int>(table->dims[1]);
  ASSIGN_OR_RETURN(const int declared, keys.IntOr("vocab_size", config->vocab_size, 1, kMaxVocab));
  if (declared != config->vocab_size) {
    return keys.Wrong("vocab_size", absl::StrCat("token_embd.weight's rows, ", config->vocab_size),
                      absl::StrCat(declared));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file) {
  RETURN_IF_ERROR(CheckArchitecture(file));
  const KeyReader keys(file);
  RETURN_IF_ERROR(RefuseVariants(file, keys));

  ModelConfig config;
  if (file.Has("general.name")) {
    ASSIGN_OR_RETURN(const std::string_view name, file.String("general.name"));
    config.name = std::string(name.substr(0, 256));
  }
  ASSIGN_OR_RETURN(config.num_layers, keys.Int("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.max_context, keys.Int("context_length", 1, kMaxContext));
  ASSIGN_OR_RETURN(config.hidden_dim, keys.Int("embedding_length", 1, kMaxDim));
  ASSIGN_OR_RETURN(config.ffn_dim,
                   keys.PerLayerInt("feed_forward_length", config.num_layers, 1, kMaxDim));
  ASSIGN_OR_RETURN(const double epsilon,
                   keys.Float("attention.layer_norm_rms_epsilon", 1e-12, 1e-1));
  config.norm_epsilon = static_cast<float>(epsilon);
  RETURN_IF_ERROR(ReadAttention(file, keys, &config));
  RETURN_IF_ERROR(ReadRope(file, keys, &config));
  RETURN_IF_ERROR(ReadVocabSize(file, keys, &config));
  return config;
}

}  // namespace tessera
