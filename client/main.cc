#include "client/bench.h"
#include "client/generate.h"
#include "client/options.h"
#include "client/queries.h"

namespace tessera {
namespace {

int RunCommand(const Options& options) {
  switch (options.command) {
    case Command::kGenerate:
      return RunGenerate(options);
    case Command::kTokenize:
      return RunTokenize(options);
    case Command::kDetokenize:
      return RunDetokenize(options);
    case Command::kInfo:
      return RunInfo(options);
    case Command::kExplain:
      return RunExplain(options);
    case Command::kAbort:
      return RunAbort(options);
    case Command::kDrain:
      return RunDrain(options);
    case Command::kBench:
      return RunBench(options);
  }
  return 1;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::Options options;
  if (const auto exit_code = tessera::ParseOptions(argc, argv, &options)) return *exit_code;
  return tessera::RunCommand(options);
}
