#include "server/http_listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/server/test_server.h"

namespace tessera {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::unique_ptr<HttpListener> StartListener() {
  auto listener = HttpListener::Start(
      {"127.0.0.1", 0},
      {{"/page", [] { return HttpReply{.content_type = "text/x", .body = "hello\n"}; }},
       {"/down", [] { return HttpReply{.status = 503, .body = "no\n"}; }}});
  EXPECT_TRUE(listener.ok()) << listener.status();
  return *std::move(listener);
}

TEST(HttpListenerTest, ServesItsPagesAndNothingElse) {
  const auto listener = StartListener();
  EXPECT_GT(listener->address().port, 0);
  const std::string page = FetchHttp(listener->address(), "GET /page");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(page, HasSubstr("Content-Type: text/x\r\n"));
  EXPECT_THAT(page, EndsWith("\r\n\r\nhello\n"));
  EXPECT_THAT(FetchHttp(listener->address(), "GET /page?q=1"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(FetchHttp(listener->address(), "GET /down"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(FetchHttp(listener->address(), "GET /"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(FetchHttp(listener->address(), "GET /../../etc/passwd"), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(FetchHttp(listener->address(), "POST /page"), StartsWith("HTTP/1.1 405"));
}

TEST(HttpListenerTest, HeadHasNoBody) {
  const auto listener = StartListener();
  const std::string head = FetchHttp(listener->address(), "HEAD /page");
  EXPECT_THAT(head, HasSubstr("Content-Length: 6\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("hello")));
}

TEST(HttpListenerTest, HostileBytesDoNoHarm) {
  const auto listener = StartListener();
  FetchHttp(listener->address(), std::string("\x00\xff\x00garbage\r\n\r\n", 13));
  FetchHttp(listener->address(), "GET /" + std::string(100'000, 'a'));
  EXPECT_THAT(FetchHttp(listener->address(), "GET /page"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpListenerTest, ManyReadersAtOnce) {
  const auto listener = StartListener();
  std::vector<std::thread> readers;
  for (int i = 0; i < 16; ++i) {
    readers.emplace_back([&] {
      for (int j = 0; j < 10; ++j) {
        EXPECT_THAT(FetchHttp(listener->address(), "GET /page"), EndsWith("hello\n"));
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST(HttpListenerTest, AddressInUseIsAStatus) {
  const auto listener = StartListener();
  const auto second = HttpListener::Start(listener->address(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("cannot listen on " + listener->address().ToString()));
}

}  // namespace
}  // namespace tessera
