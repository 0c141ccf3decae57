#pragma once

/**
 * Lets servers that TensorFlow's libraries start from now on listen on one address. gRPC binds to all interfaces, and
 * TensorFlow has no setting for it.
 *
 * @param address IPv4, such as "127.0.0.1"
 * @return whether calls of the libraries could be redirected: on Linux
 */
bool listenOn(const char* address);
