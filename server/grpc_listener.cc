#include "server/grpc_listener.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

// What gRPC may hold for calls and connections; above it, calls are refused and connections closed.
constexpr size_t kMaxGrpcBytes = size_t{1} << 30;
// Reflection is a synchronous service, the only one: each open call of it holds a thread.
constexpr int kMaxSyncThreads = 8;
// More calls of one connection wait at its client; one that opens them all the same loses it.
constexpr int kMaxCallsPerConnection = 4096;

// Clients may ping every 10 s, also without a call; twice as fast is met with patience, more is
// not.
constexpr int kMinPingIntervalMs = 5'000;
constexpr int kKeepaliveTimeMs = 60'000;  // how often we ask whether a silent client still lives
constexpr int kKeepaliveTimeoutMs = 20'000;
// Who connects and says nothing, or says it slowly, goes.
constexpr int kHandshakeTimeoutMs = 10'000;
constexpr int kMaxMetadataBytes = 16 << 10;

// Linking gRPC's reflection library is enough to switch it on; this switches it off.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

void SetLimits(const GrpcListenerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  builder->SetMaxSendMessageSize(options.max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->SetResourceQuota(
      grpc::ResourceQuota("tessera").Resize(kMaxGrpcBytes).SetMaxThreads(kMaxSyncThreads));
}

void SetTimes(const GrpcListenerOptions& options, grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kMinPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                              options.max_connection_idle_seconds * 1000);
  if (options.max_connection_age_seconds > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                options.max_connection_age_seconds * 1000);
  }
}

void SetUp(const GrpcListenerOptions& options, const std::vector<grpc::Service*>& services,
           grpc::ServerBuilder* builder) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  SetLimits(options, builder);
  SetTimes(options, builder);
  if (!options.reflection) builder->SetOption(std::make_unique<WithoutReflection>());
  for (grpc::Service* service : services) builder->RegisterService(service);
}

}  // namespace

void GrpcListener::Shutdown(std::chrono::seconds flush_time) {
  if (acceptor != nullptr) acceptor->Stop();
  if (server != nullptr) server->Shutdown(std::chrono::system_clock::now() + flush_time);
}

absl::StatusOr<GrpcListener> StartGrpcListener(const HostPort& listen, int max_connections,
                                               const GrpcListenerOptions& options,
                                               const std::vector<grpc::Service*>& services) {
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  GrpcListener listener;
  ASSIGN_OR_RETURN(listener.acceptor, ConnectionAcceptor::Listen(listen, max_connections));
  grpc::ServerBuilder builder;
  SetUp(options, services, &builder);
  auto connections =
      builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, options.credentials);
  listener.server = builder.BuildAndStart();
  if (listener.server == nullptr) return absl::UnavailableError("listen: cannot start a server");
  listener.acceptor->Start(std::move(connections));
  return listener;
}

absl::StatusOr<GrpcListener> StartControlListener(const std::string& address,
                                                  const GrpcListenerOptions& options,
                                                  const std::vector<grpc::Service*>& services) {
  int port = 0;
  grpc::ServerBuilder builder;
  SetUp(options, services, &builder);
  // Else a second daemon on the port would take half of the first one's connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  GrpcListener listener;
  listener.server = builder.BuildAndStart();
  if (listener.server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("control-listen: cannot listen on ", address));
  }
  return listener;
}

}  // namespace tessera
