// Writes a generated tiny model as a GGUF file, for system tests and benchmarks.
//   make_tiny_model --output /tmp/tiny.gguf --type Q4_1 --max-context 65536

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "tests/support/gguf_writer.h"
#include "tests/support/tiny_model.h"

// CLI11 throws on options declared wrongly: a bug, which may end the program.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  tessera::TinyModelOptions options;
  std::string output;
  std::string type(Name(options.type)), embedding_type(Name(options.embedding_type));
  std::map<std::string, tessera::DType> types;
  for (tessera::DType known : tessera::kAllDTypes) types[std::string(Name(known))] = known;

  CLI::App app("Writes a Llama model of random weights as a GGUF file.");
  app.add_option("--output", output, "the file to write")->required();
  app.option_defaults()->always_capture_default();
  app.add_option("--seed", options.seed, "of the weights");
  app.add_option("--type", type, "of the matrices")
      ->transform(CLI::IsMember(&types, CLI::ignore_case));
  app.add_option("--embedding-type", embedding_type, "of token_embd")
      ->transform(CLI::IsMember(&types, CLI::ignore_case));
  app.add_option("--layers", options.num_layers)->check(CLI::Range(1, 128));
  app.add_option("--hidden-dim", options.hidden_dim)->check(CLI::Range(2, 65536));
  app.add_option("--heads", options.num_heads)->check(CLI::Range(1, 256));
  app.add_option("--kv-heads", options.num_kv_heads)->check(CLI::Range(1, 256));
  app.add_option("--head-dim", options.head_dim)->check(CLI::Range(2, 512));
  app.add_option("--ffn-dim", options.ffn_dim)->check(CLI::Range(1, 1 << 20));
  app.add_option("--max-context", options.max_context)->check(CLI::Range(1, 1 << 20));
  app.add_option("--vocab-size", options.vocab_size)
      ->check(CLI::Range(tessera::kMinTinyVocab, 1 << 20));
  app.add_option("--rope-base", options.rope_base)->check(CLI::Range(1.0, 1e12));
  app.add_flag("--llama3-rope", options.has_llama3_rope, "write rope_freqs.weight");
  app.add_flag("!--untied", options.is_tied, "write output.weight");
  CLI11_PARSE(app, argc, argv);

  options.type = types.at(type);
  options.embedding_type = types.at(embedding_type);
  tessera::WriteFile(output, tessera::MakeTinyModel(options));
  return 0;
}
