// tesserad: serves one model over gRPC until it is told to stop.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "base/status.h"
#include "server/announce.h"
#include "server/loaded_model.h"
#include "server/log.h"
#include "server/options.h"
#include "server/process_stats.h"
#include "server/server.h"
#include "server/supervisor.h"
#include "server/version.h"

namespace tessera {
namespace {

// Files beside clients' connections.
constexpr int64_t kOwnOpenFiles = 256;
// What wakes main for a client's Drain call.
constexpr int kDrainSignal = SIGUSR1;

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, kDrainSignal}) sigaddset(&signals, number);
  return signals;
}

// Before any thread starts, so that all of them leave these signals to WaitForStop.
void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

const char* CauseOf(int signal_number) {
  if (signal_number == kDrainSignal) return "Drain call";
  return signal_number == SIGINT ? "SIGINT" : "SIGTERM";
}

void Reload(const std::string& api_keys_path, Server* server) {
  const absl::Status status = server->Reload();
  if (status.ok()) {
    Log(LogLevel::kInfo, "reloaded",
        {{"api_keys", api_keys_path.empty() ? "none" : api_keys_path}});
  } else {
    Log(LogLevel::kError, "reload failed", {{"reason", std::string(status.message())}});
  }
}

// SIGHUP reloads. After the signal to stop Ctrl-C ends the process at once; further SIGTERMs change
// nothing.
void WaitForStop(const std::string& api_keys_path, Server* server) {
  const sigset_t signals = StopSignals();
  int received = 0;
  while (sigwait(&signals, &received) == 0 && received == SIGHUP) {
    Reload(api_keys_path, server);
  }
  Log(LogLevel::kInfo, "stopping", {{"cause", CauseOf(received)}});
  sigset_t urgent;
  sigemptyset(&urgent);
  sigaddset(&urgent, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &urgent, nullptr);
}

void LogServing(const Server& server, const LoadedModel& model, int64_t max_open_files) {
  const ExecutorLimits limits = model.runner->limits();
  Log(LogLevel::kInfo, "serving",
      {{"version", kTesseraVersion},
       {"model", model.description.name},
       {"fingerprint", model.description.fingerprint},
       {"device", model.description.device},
       {"grpc", server.grpc_address().ToString()},
       {"metrics", server.metrics_address().ToString()},
       {"max_context", int64_t{limits.max_context}},
       {"max_running", int64_t{limits.max_running}},
       {"kv_pages", int64_t{limits.num_pages}},
       {"max_open_files", max_open_files}});
}

absl::Status Serve(const ServerOptions& options) {
  BlockStopSignals();
  RETURN_IF_ERROR(InitLog(options.log_format, options.log_level));
  if (!options.announce_path.empty()) std::remove(options.announce_path.c_str());
  ASSIGN_OR_RETURN(const int64_t max_open_files,
                   RaiseOpenFileLimit(options.max_connections + kOwnOpenFiles));

  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(options));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Server> server,
      Server::Start(options, {.tokenizer = model.tokenizer.get(),
                              .executor = model.runner.get(),
                              .model = model.description,
                              .on_drain_request = [] { kill(getpid(), kDrainSignal); }}));
  if (!options.announce_path.empty()) {
    RETURN_IF_ERROR(
        Announce(options.announce_path, server->grpc_address(), server->metrics_address()));
  }
  LogServing(*server, model, max_open_files);
  NotifySupervisor("READY=1");

  WaitForStop(options.api_keys_path, server.get());
  NotifySupervisor("STOPPING=1");
  server->Drain();
  Log(LogLevel::kInfo, "stopped");
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  const auto parsed = tessera::ParseOptions(argc, argv);
  if (const int* exit_status = std::get_if<int>(&parsed)) return *exit_status;
  const absl::Status status = tessera::Serve(std::get<tessera::ServerOptions>(parsed));
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "tesserad: %s\n", std::string(status.message()).c_str());
  return EXIT_FAILURE;
}
