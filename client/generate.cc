#include "client/generate.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "client/connection.h"
#include "client/json_output.h"
#include "tessera/v1/generation.grpc.pb.h"

namespace tessera {
namespace {

bool ReadFile(const std::string& path, std::string* text) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream contents;
  contents << file.rdbuf();
  *text = contents.str();
  if (file.good() || file.eof()) return true;
  std::fprintf(stderr, "tessera: cannot read %s\n", path.c_str());
  return false;
}

bool SetPrompt(const GenerateOptions& options, v1::GenerateRequest* request) {
  if (!options.prompt_ids.empty()) {
    request->mutable_token_ids()->mutable_ids()->Assign(options.prompt_ids.begin(),
                                                        options.prompt_ids.end());
    return true;
  }
  std::string text = options.prompt;
  if (!options.prompt_file.empty() && !ReadFile(options.prompt_file, &text)) return false;
  request->set_text(text);
  return true;
}

void SetSampling(const GenerateOptions& options, v1::SamplingParams* sampling) {
  if (options.temperature) sampling->set_temperature(*options.temperature);
  if (options.top_k) sampling->set_top_k(*options.top_k);
  if (options.top_p) sampling->set_top_p(*options.top_p);
  if (options.min_p) sampling->set_min_p(*options.min_p);
  if (options.repetition_penalty) sampling->set_repetition_penalty(*options.repetition_penalty);
  if (options.frequency_penalty) sampling->set_frequency_penalty(*options.frequency_penalty);
  if (options.presence_penalty) sampling->set_presence_penalty(*options.presence_penalty);
  if (options.seed) sampling->set_seed(*options.seed);
  for (const auto& [id, bias] : options.logit_bias) (*sampling->mutable_logit_bias())[id] = bias;
}

void SetStop(const GenerateOptions& options, v1::StopConditions* stop) {
  if (options.max_tokens) stop->set_max_tokens(*options.max_tokens);
  if (options.min_tokens) stop->set_min_tokens(*options.min_tokens);
  for (const std::string& text : options.stop_strings) stop->add_stop_strings(text);
  for (const int32_t id : options.stop_token_ids) stop->add_stop_token_ids(id);
  if (options.ignore_eos) stop->set_ignore_eos(true);
  if (options.include_stop_string) stop->set_include_stop_string(true);
}

int PrintJson(const Options& options, const v1::GenerateRequest& request) {
  const auto stub = v1::GenerationService::NewStub(Connect(options.connection));
  grpc::ClientContext context;
  PrepareContext(options.connection, &context);
  v1::GenerateResponse response;
  const grpc::Status status = stub->Generate(&context, request, &response);
  if (!status.ok()) return ReportFailure(status);
  std::cout << GenerationToJson(response).dump() << '\n';
  return 0;
}

// With one sequence text appears as it comes; with several each is printed whole, under its index.
int StreamText(const Options& options, const v1::GenerateRequest& request) {
  const auto stub = v1::GenerationService::NewStub(Connect(options.connection));
  grpc::ClientContext context;
  PrepareContext(options.connection, &context);
  const auto reader = stub->GenerateStream(&context, request);
  std::map<uint32_t, std::string> texts;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    for (const v1::Output& output : message.outputs()) {
      if (request.n() > 1) {
        texts[output.index()] += output.text();
      } else {
        std::cout << output.text() << std::flush;
      }
    }
  }
  for (const auto& [index, text] : texts) std::cout << "[" << index << "] " << text << "\n";
  if (texts.empty()) std::cout << std::endl;
  const grpc::Status status = reader->Finish();
  return status.ok() ? 0 : ReportFailure(status);
}

}  // namespace

bool BuildGenerateRequest(const GenerateOptions& options, v1::GenerateRequest* request) {
  if (!SetPrompt(options, request)) return false;
  SetSampling(options, request->mutable_sampling());
  SetStop(options, request->mutable_stop());
  if (options.parse_special) request->set_parse_special(true);
  if (options.n) request->set_n(*options.n);
  if (options.logprobs) request->set_logprobs(*options.logprobs);
  if (options.prompt_logprobs) request->set_prompt_logprobs(*options.prompt_logprobs);
  if (options.priority) request->set_priority(*options.priority);
  if (options.echo) request->set_echo(true);
  return true;
}

int RunGenerate(const Options& options) {
  v1::GenerateRequest request;
  if (!BuildGenerateRequest(options.generate, &request)) return 1;
  return options.json ? PrintJson(options, request) : StreamText(options, request);
}

}  // namespace tessera
