#include "server/loaded_model.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/gguf.h"
#include "server/device.h"

namespace tessera {
namespace {

absl::Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocab_size() <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer.ggml.tokens: expected at most as many as the embedding table has rows, ",
      config.vocab_size, ", got ", tokenizer.vocab_size()));
}

std::string ServedName(const ServerOptions& options, const ModelConfig& config) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  if (!config.name.empty()) return config.name;
  return std::filesystem::path(options.model_path).stem().string();
}

int MaxBatchTokens(const ServerOptions& options, const ServingDevice& device) {
  if (options.max_batch_tokens > 0) return options.max_batch_tokens;
  return std::max(device.efficient_step_rows, options.max_running);
}

// Counts parameters and bytes, and finds the format that most parameters are in.
void DescribeWeights(const GgufFile& file, ServedModel* model) {
  std::map<DType, uint64_t> parameters;
  for (const GgufTensor& tensor : file.tensors()) {
    const uint64_t count =
        static_cast<uint64_t>(tensor.rows()) * static_cast<uint64_t>(tensor.cols());
    parameters[tensor.type] += count;
    model->parameter_count += count;
    model->weights_bytes += tensor.size_bytes;
  }
  const auto most =
      std::max_element(parameters.begin(), parameters.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != parameters.end()) model->weight_format = std::string(Name(most->first));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const ServerOptions& options) {
  ASSIGN_OR_RETURN(ServingDevice device, OpenServingDevice(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<const GgufFile> file, GgufFile::Open(options.model_path));
  RETURN_IF_ERROR(CheckServes(device, *file));
  LoadedModel model;
  model.description.device = std::string(device.backend->name());
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(*file));
  ASSIGN_OR_RETURN(model.runner,
                   ModelRunner::Load(*file, std::move(device.backend),
                                     {.max_batch_tokens = MaxBatchTokens(options, device),
                                      .max_running = options.max_running,
                                      .max_context = options.max_context,
                                      .num_pages = options.num_kv_pages,
                                      .device_bytes_for_pages = device.bytes_for_pages}));
  RETURN_IF_ERROR(CheckVocabulary(*model.tokenizer, model.runner->config()));

  ServedModel& description = model.description;
  description.name = ServedName(options, model.runner->config());
  ASSIGN_OR_RETURN(const std::string_view architecture, file->String("general.architecture"));
  description.architecture = std::string(architecture);
  description.fingerprint = model.runner->fingerprint();
  description.weights_hash = description.fingerprint.substr(description.fingerprint.rfind('-') + 1);
  DescribeWeights(*file, &description);
  return model;
}

}  // namespace tessera
