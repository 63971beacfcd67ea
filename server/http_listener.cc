#include "server/http_listener.h"

#include <civetweb.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(
    const HostPort& address, std::map<std::string, Page> pages) {
  mg_init_library(0);
  std::unique_ptr<HttpListener> listener(new HttpListener(std::move(pages)));

  mg_callbacks callbacks = {};
  callbacks.log_message = [](const mg_connection* connection, const char* message) {
    auto* self = static_cast<HttpListener*>(mg_get_user_data(mg_get_context(connection)));
    if (self->context_ == nullptr) self->start_error_ = message;
    return 1;
  };
  callbacks.begin_request = [](mg_connection* connection) {
    const mg_request_info* request = mg_get_request_info(connection);
    const auto* self = static_cast<const HttpListener*>(request->user_data);
    const HttpReply reply = self->Reply(request->request_method, request->local_uri);
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
              "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
              reply.status, Reason(reply.status), reply.content_type.c_str(), reply.body.size());
    if (std::string(request->request_method) != "HEAD") {
      mg_write(connection, reply.body.data(), reply.body.size());
    }
    return reply.status;  // handled: civetweb sends nothing more
  };

  const std::string port = address.ToString();
  // A client that connects and says nothing holds a thread for as long as the timeout.
  const char* const options[] = {"listening_ports",    port.c_str(), "num_threads", "32",
                                 "request_timeout_ms", "2000",       nullptr};
  listener->context_ = mg_start(&callbacks, listener.get(), const_cast<const char**>(options));
  if (listener->context_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("metrics-listen: cannot listen on ", port, ": ", listener->start_error_));
  }
  mg_server_port bound = {};
  mg_get_server_ports(listener->context_, 1, &bound);
  listener->address_ = {address.host, bound.port};
  return listener;
}

HttpListener::~HttpListener() {
  if (context_ != nullptr) Stop();
  mg_exit_library();
}

// civetweb's accept loop looks for the order to stop only every 2 s, or when someone connects.
void HttpListener::Stop() {
  std::atomic<bool> stopped{false};
  std::thread stopper([&] {
    mg_stop(context_);
    stopped = true;
  });
  while (!stopped) {
    char error[64];
    mg_connection* knock =
        mg_connect_client(address_.host.c_str(), address_.port, 0, error, sizeof(error));
    if (knock != nullptr) mg_close_connection(knock);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stopper.join();
}

HttpReply HttpListener::Reply(const std::string& method, const std::string& path) const {
  if (method != "GET" && method != "HEAD") return {.status = 405, .body = "only GET and HEAD\n"};
  const auto page = pages_.find(path);
  if (page == pages_.end()) return {.status = 404, .body = "no such page\n"};
  return page->second();
}

}  // namespace tessera
