#include "server/loaded_model.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/gguf.h"

namespace tessera {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const ServerOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "device: expected auto or cpu, since this build has no CUDA, got ", options.device));
  }
  const std::map<std::string, CpuIsa> isas = {{"auto", CpuIsa::kAuto},
                                              {"portable", CpuIsa::kPortable},
                                              {"avx2", CpuIsa::kAvx2},
                                              {"avx512", CpuIsa::kAvx512},
                                              {"vnni", CpuIsa::kAvx512Vnni}};
  const CpuIsa isa = isas.at(options.cpu_isa);
  if (isa != CpuIsa::kAuto && !IsSupported(isa)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu-isa: expected one that this CPU can run, got ", options.cpu_isa));
  }
  return MakeCpuBackend({.num_threads = options.num_threads, .isa = isa});
}

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
  ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, MakeBackend(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<const GgufFile> file, GgufFile::Open(options.model_path));
  LoadedModel model;
  model.description.device = std::string(backend->name());
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(*file));
  ASSIGN_OR_RETURN(model.runner, ModelRunner::Load(*file, std::move(backend),
                                                   {.max_batch_tokens = options.max_batch_tokens,
                                                    .max_running = options.max_running,
                                                    .max_context = options.max_context,
                                                    .num_pages = options.num_kv_pages}));
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
