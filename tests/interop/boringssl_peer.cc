// A TLS 1.3 peer on BoringSSL that tells what it asked for, got and sent. BoringSSL itself is no part of this repository;
// docs/interop.md says how this is built. Each handshake prints one line of JSON.
//
//   boringssl_peer client HOST PORT [ID,ID,...]   "-" in place of the IDs sends no trust_anchors, "" an empty list
//   boringssl_peer server PATH...                 prints its port first, then serves until it is killed
//
// PATH is a PEM file: perhaps CERTIFICATE PROPERTIES, certificates, PRIVATE KEY. A path with properties is sent only to
// who asks for it; the first that fits is sent.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include <openssl/bio.h>
#include <openssl/bytestring.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pool.h>
#include <openssl/ssl.h>

namespace {

struct Handshake {
  bool is_acknowledged = false;
  std::string available;
  std::string leaf;
};

std::string hex(const uint8_t *data, size_t size) {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t at = 0; at < size; at++) {
    text += digits[data[at] >> 4];
    text += digits[data[at] & 15];
  }
  return text;
}

std::string last_error() {
  uint32_t code = ERR_get_error();
  const char *text = code ? ERR_reason_error_string(code) : nullptr;
  ERR_clear_error();
  return text ? text : "";
}

// Verifies nothing: what is asked here is what was sent. Only now does BoringSSL know what the server said.
ssl_verify_result_t look(SSL *ssl, uint8_t *) {
  auto *seen = static_cast<Handshake *>(SSL_get_app_data(ssl));
  const uint8_t *list = nullptr;
  size_t size = 0;
  SSL_get0_peer_available_trust_anchors(ssl, &list, &size);
  seen->available = hex(list, size);
  seen->is_acknowledged = SSL_peer_matched_trust_anchor(ssl) == 1;
  const STACK_OF(CRYPTO_BUFFER) *chain = SSL_get0_peer_certificates(ssl);
  if (chain != nullptr && sk_CRYPTO_BUFFER_num(chain) > 0) {
    const CRYPTO_BUFFER *leaf = sk_CRYPTO_BUFFER_value(chain, 0);
    seen->leaf = hex(CRYPTO_BUFFER_data(leaf), CRYPTO_BUFFER_len(leaf));
  }
  return ssl_verify_ok;
}

bool request(SSL_CTX *ctx, std::string_view ids) {
  bssl::ScopedCBB list;
  if (!CBB_init(list.get(), 64)) {
    return false;
  }
  while (!ids.empty()) {
    std::string_view id = ids.substr(0, ids.find(','));
    ids.remove_prefix(id.size() + (id.size() < ids.size()));
    CBB child;
    if (!CBB_add_u8_length_prefixed(list.get(), &child) ||
        !CBB_add_asn1_relative_oid_from_text(&child, id.data(), id.size()) || !CBB_flush(list.get())) {
      return false;
    }
  }
  return SSL_CTX_set1_requested_trust_anchors(ctx, CBB_data(list.get()), CBB_len(list.get()));
}

int run_client(const char *host, int port, const char *ids) {
  bssl::UniquePtr<SSL_CTX> ctx(SSL_CTX_new(TLS_with_buffers_method()));
  SSL_CTX_set_custom_verify(ctx.get(), SSL_VERIFY_PEER, look);
  if (strcmp(ids, "-") != 0 && !request(ctx.get(), ids)) {
    fprintf(stderr, "not a list of trust anchor IDs: %s\n", ids);
    return 2;
  }
  int connection = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(connection, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0) {
    perror("connect");
    return 2;
  }
  Handshake seen;
  bssl::UniquePtr<SSL> ssl(SSL_new(ctx.get()));
  SSL_set_app_data(ssl.get(), &seen);
  SSL_set_tlsext_host_name(ssl.get(), host);
  SSL_set_fd(ssl.get(), connection);
  bool is_done = SSL_connect(ssl.get()) == 1;
  if (is_done) {
    // Who has answered has made its notes.
    static const char words[] = "GET / HTTP/1.1\r\n\r\n";
    char answer[1024];
    SSL_write(ssl.get(), words, sizeof(words) - 1);
    while (SSL_read(ssl.get(), answer, sizeof(answer)) > 0) {
    }
    ERR_clear_error();
  }
  printf("{\"error\": \"%s\", \"acknowledged\": %s, \"available\": \"%s\", \"leaf\": \"%s\"}\n",
         is_done ? "" : last_error().c_str(), seen.is_acknowledged ? "true" : "false", seen.available.c_str(),
         seen.leaf.c_str());
  close(connection);
  return is_done ? 0 : 1;
}

bool load(SSL_CTX *ctx, const char *file) {
  bssl::UniquePtr<BIO> bio(BIO_new_file(file, "r"));
  bssl::UniquePtr<SSL_CREDENTIAL> credential(SSL_CREDENTIAL_new_x509());
  std::vector<bssl::UniquePtr<CRYPTO_BUFFER>> chain;
  bssl::UniquePtr<CRYPTO_BUFFER> properties;
  bssl::UniquePtr<EVP_PKEY> key;
  char *name, *header;
  uint8_t *data;
  long size;
  while (bio && PEM_read_bio(bio.get(), &name, &header, &data, &size)) {
    std::string label = name;
    bssl::UniquePtr<CRYPTO_BUFFER> buffer(CRYPTO_BUFFER_new(data, static_cast<size_t>(size), nullptr));
    CBS cbs;
    CRYPTO_BUFFER_init_CBS(buffer.get(), &cbs);
    if (label == "CERTIFICATE PROPERTIES") {
      properties = std::move(buffer);
    } else if (label == "CERTIFICATE") {
      chain.push_back(std::move(buffer));
    } else if (label == "PRIVATE KEY") {
      key.reset(EVP_parse_private_key(&cbs));
    }
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
  }
  ERR_clear_error();
  std::vector<CRYPTO_BUFFER *> pointers;
  for (const auto &certificate : chain) {
    pointers.push_back(certificate.get());
  }
  if (!SSL_CREDENTIAL_set1_cert_chain(credential.get(), pointers.data(), pointers.size()) ||
      !SSL_CREDENTIAL_set1_private_key(credential.get(), key.get())) {
    return false;
  }
  if (properties) {
    SSL_CREDENTIAL_set_must_match_issuer(credential.get(), 1);
    if (!SSL_CREDENTIAL_set1_certificate_properties(credential.get(), properties.get())) {
      return false;
    }
  }
  return SSL_CTX_add1_credential(ctx, credential.get()) == 1;
}

int run_server(int count, char **files) {
  bssl::UniquePtr<SSL_CTX> ctx(SSL_CTX_new(TLS_with_buffers_method()));
  for (int number = 0; number < count; number++) {
    if (!load(ctx.get(), files[number])) {
      fprintf(stderr, "%s: %s\n", files[number], last_error().c_str());
      return 2;
    }
  }
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr *>(&address), size) != 0 || listen(listener, 16) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr *>(&address), &size) != 0) {
    perror("listen");
    return 2;
  }
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int connection = accept(listener, nullptr, nullptr);
    int on = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    bssl::UniquePtr<SSL> ssl(SSL_new(ctx.get()));
    SSL_set_fd(ssl.get(), connection);
    if (SSL_accept(ssl.get()) == 1) {
      SSL_write(ssl.get(), "word", 4);
      SSL_shutdown(ssl.get());
    }
    ERR_clear_error();
    // The client reads our last words before it goes.
    shutdown(connection, SHUT_WR);
    char rest[256];
    while (read(connection, rest, sizeof(rest)) > 0) {
    }
    close(connection);
  }
}

}  // namespace

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 5 && strcmp(argv[1], "client") == 0) {
    return run_client(argv[2], atoi(argv[3]), argv[4]);
  }
  if (argc > 2 && strcmp(argv[1], "server") == 0) {
    return run_server(argc - 2, argv + 2);
  }
  fprintf(stderr, "usage: boringssl_peer client HOST PORT IDS | boringssl_peer server PATH...\n");
  return 2;
}
