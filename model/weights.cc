#include "model/weights.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/dequantize.h"

namespace tessera {
namespace {

constexpr size_t kSliceBytes = size_t{1} << 20;

// Hashes bytes as they pass.
class FileHash {
 public:
  FileHash() : state_(XXH3_createState()) {
    CHECK(state_ != nullptr && XXH3_128bits_reset(state_) == XXH_OK) << "XXH3 state";
  }
  ~FileHash() { XXH3_freeState(state_); }
  FileHash(const FileHash&) = delete;
  FileHash& operator=(const FileHash&) = delete;

  void Update(std::span<const std::byte> bytes) {
    CHECK(XXH3_128bits_update(state_, bytes.data(), bytes.size()) == XXH_OK) << "XXH3 update";
  }
  std::string HexDigest() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_);
    return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
  }

 private:
  XXH3_state_t* const state_;
};

// Where the rows of one tensor of the file go.
struct Destination {
  int64_t rows = 0;
  int64_t cols = 0;
  std::unique_ptr<PackedWeight>* weight = nullptr;  // a matrix; or
  DeviceBuffer* vector = nullptr;                   // fp32 on the device; or
  std::vector<float>* host_vector = nullptr;        // fp32 on the host
  bool is_rotated = false;  // a Q or K matrix, whose heads' rows the file holds permuted
  bool is_optional = false;
  bool is_loaded = false;
};

class WeightLoader {
 public:
  WeightLoader(const GgufFile& file, const ModelConfig& config, Backend* backend)
      : file_(file), config_(config), backend_(*backend) {}

  absl::StatusOr<ModelWeights> Load() {
    ExpectTensors();
    hash_.Update(file_.header());
    position_ = file_.header().size();
    for (const GgufTensor& tensor : file_.tensors()) RETURN_IF_ERROR(LoadTensor(tensor));
    RETURN_IF_ERROR(HashUpTo(file_.size_bytes()));
    RETURN_IF_ERROR(CheckNothingMissing());
    RETURN_IF_ERROR(CheckRopeDivisors());
    weights_.hash = hash_.HexDigest();
    return std::move(weights_);
  }

 private:
  void ExpectTensors() {
    const int64_t hidden = config_.hidden_dim;
    ExpectMatrix("token_embd.weight", config_.vocab_size, hidden, &weights_.token_embedding);
    ExpectMatrix("output.weight", config_.vocab_size, hidden, &weights_.untied_output).is_optional =
        true;
    ExpectVector("output_norm.weight", hidden).vector = &weights_.output_norm;
    Destination& divisors = ExpectVector("rope_freqs.weight", config_.rope_dim / 2);
    divisors.host_vector = &weights_.rope_divisors;
    divisors.is_optional = true;
    weights_.layers.resize(static_cast<size_t>(config_.num_layers));
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
      ExpectLayer(absl::StrCat("blk.", i, "."), &weights_.layers[i]);
    }
  }

  void ExpectLayer(const std::string& prefix, LayerWeights* layer) {
    const int64_t hidden = config_.hidden_dim;
    const int64_t q_rows = int64_t{config_.num_heads} * config_.head_dim;
    const int64_t kv_rows = int64_t{config_.num_kv_heads} * config_.head_dim;
    const int64_t ffn = config_.ffn_dim;
    ExpectVector(prefix + "attn_norm.weight", hidden).vector = &layer->attention_norm;
    ExpectMatrix(prefix + "attn_q.weight", q_rows, hidden, &layer->q).is_rotated = true;
    ExpectMatrix(prefix + "attn_k.weight", kv_rows, hidden, &layer->k).is_rotated = true;
    ExpectMatrix(prefix + "attn_v.weight", kv_rows, hidden, &layer->v);
    ExpectMatrix(prefix + "attn_output.weight", hidden, q_rows, &layer->o);
    ExpectVector(prefix + "ffn_norm.weight", hidden).vector = &layer->ffn_norm;
    ExpectMatrix(prefix + "ffn_gate.weight", ffn, hidden, &layer->gate);
    ExpectMatrix(prefix + "ffn_up.weight", ffn, hidden, &layer->up);
    ExpectMatrix(prefix + "ffn_down.weight", hidden, ffn, &layer->down);
  }

  Destination& ExpectMatrix(const std::string& name, int64_t rows, int64_t cols,
                            std::unique_ptr<PackedWeight>* weight) {
    return destinations_[name] = {.rows = rows, .cols = cols, .weight = weight};
  }
  Destination& ExpectVector(const std::string& name, int64_t size) {
    return destinations_[name] = {.rows = 1, .cols = size};
  }

  absl::Status LoadTensor(const GgufTensor& tensor) {
    const std::string name(tensor.name);
    const auto found = destinations_.find(name);
    if (found == destinations_.end()) {
      return absl::UnimplementedError(absl::StrCat(file_.path(), ": tensor '",
                                                   absl::CHexEscape(name),
                                                   "': not one that the architecture has"));
    }
    Destination& destination = found->second;
    RETURN_IF_ERROR(CheckShape(tensor, destination));
    RETURN_IF_ERROR(HashUpTo(tensor.file_offset));
    destination.is_loaded = true;
    return destination.weight != nullptr ? LoadMatrix(tensor, destination)
                                         : LoadVector(tensor, destination);
  }

  absl::Status CheckShape(const GgufTensor& tensor, const Destination& destination) const {
    if (tensor.cols() == destination.cols && tensor.rows() == destination.rows) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        file_.path(), ": tensor ", std::string(tensor.name), ": expected shape [", destination.rows,
        ", ", destination.cols, "], got [", tensor.rows(), ", ", tensor.cols(), "]"));
  }

  absl::Status LoadMatrix(const GgufTensor& tensor, const Destination& destination) {
    const size_t row_bytes = RowBytes(tensor.type, tensor.cols());
    // Whole heads, so that a slice can be permuted by itself.
    const int64_t unit = destination.is_rotated ? config_.head_dim : 1;
    const int64_t slice_rows =
        std::max<int64_t>(1, static_cast<int64_t>(kSliceBytes / row_bytes) / unit) * unit;
    *destination.weight = backend_.NewWeight(tensor.type, tensor.rows(), tensor.cols());
    for (int64_t row = 0; row < tensor.rows(); row += slice_rows) {
      const int64_t num_rows = std::min(slice_rows, tensor.rows() - row);
      RETURN_IF_ERROR(ReadSlice(tensor, row, num_rows));
      if (destination.is_rotated) UnpermuteSlice(row_bytes);
      backend_.PackRows(destination.weight->get(), row, num_rows, slice_.data());
    }
    return absl::OkStatus();
  }

  absl::Status LoadVector(const GgufTensor& tensor, const Destination& destination) {
    RETURN_IF_ERROR(ReadSlice(tensor, 0, 1));
    std::vector<float> values(static_cast<size_t>(tensor.cols()));
    DequantizeRow(tensor.type, slice_.data(), tensor.cols(), values.data());
    if (destination.host_vector != nullptr) {
      *destination.host_vector = std::move(values);
      return absl::OkStatus();
    }
    *destination.vector = backend_.Allocate(values.size() * sizeof(float));
    backend_.Upload(values.data(), values.size() * sizeof(float), destination.vector->As<void>());
    return absl::OkStatus();
  }

  absl::Status ReadSlice(const GgufTensor& tensor, int64_t first_row, int64_t num_rows) {
    slice_.resize(static_cast<size_t>(num_rows) * RowBytes(tensor.type, tensor.cols()));
    RETURN_IF_ERROR(file_.ReadRows(tensor, first_row, num_rows, slice_.data()));
    hash_.Update(slice_);
    position_ += slice_.size();
    return absl::OkStatus();
  }

  // The converter to GGUF interleaved the two halves of each head's rotated rows: row 2 i + p of a
  // head in the file is row p * rope_dim / 2 + i in the model.
  void UnpermuteSlice(size_t row_bytes) {
    permuted_.resize(slice_.size());
    const auto head_dim = static_cast<size_t>(config_.head_dim);
    const auto rope_dim = static_cast<size_t>(config_.rope_dim);
    for (size_t row = 0; row < slice_.size() / row_bytes; ++row) {
      const size_t in_head = row % head_dim;
      const size_t target_in_head =
          in_head < rope_dim ? in_head % 2 * (rope_dim / 2) + in_head / 2 : in_head;
      const size_t target = row - in_head + target_in_head;
      std::memcpy(&permuted_[target * row_bytes], &slice_[row * row_bytes], row_bytes);
    }
    slice_.swap(permuted_);
  }

  // Hashes the bytes between tensors, which nothing else reads.
  absl::Status HashUpTo(uint64_t end) {
    while (position_ < end) {
      slice_.resize(std::min<uint64_t>(kSliceBytes, end - position_));
      RETURN_IF_ERROR(file_.Read(position_, slice_));
      hash_.Update(slice_);
      position_ += slice_.size();
    }
    return absl::OkStatus();
  }

  absl::Status CheckNothingMissing() const {
    for (const auto& [name, destination] : destinations_) {
      if (destination.is_loaded || destination.is_optional) continue;
      return absl::NotFoundError(
          absl::StrCat(file_.path(), ": ", name, ": expected a tensor, got none"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckRopeDivisors() const {
    for (float divisor : weights_.rope_divisors) {
      if (divisor >= 1e-3f && divisor <= 1e6f) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(file_.path(), ": rope_freqs.weight: expected 0.001 to 1e6, got ", divisor));
    }
    return absl::OkStatus();
  }

  const GgufFile& file_;
  const ModelConfig& config_;
  Backend& backend_;
  ModelWeights weights_;
  std::map<std::string, Destination> destinations_;
  FileHash hash_;
  uint64_t position_ = 0;  // everything before it is hashed
  std::vector<std::byte> slice_;
  std::vector<std::byte> permuted_;
};

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const GgufFile& file, const ModelConfig& config,
                                         Backend* backend) {
  return WeightLoader(file, config, backend).Load();
}

}  // namespace tessera
