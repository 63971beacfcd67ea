#!/usr/bin/env python3
"""Sends a daemon requests that it must refuse, so many at a time, beside 300 idle connections, until
it is terminated. Says "ready" once it begins. Usage: flood.py TARGET AT_A_TIME NICE"""

import os
import socket
import sys

import grpc
from harness import generation_pb2_grpc, request


def main(target, at_a_time, nice):
    os.nice(int(nice))
    host, port = target.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port)), 10) for _ in range(300)]
    with grpc.insecure_channel(target) as channel:
        call = generation_pb2_grpc.GenerationServiceStub(channel).Generate
        grpc.channel_ready_future(channel).result(10)
        print(f"ready, {len(idle)} idle connections", flush=True)
        while True:
            for future in [call.future(request([], 1), timeout=60) for _ in range(int(at_a_time))]:
                assert future.code() == grpc.StatusCode.INVALID_ARGUMENT


if __name__ == "__main__":
    main(*sys.argv[1:])
