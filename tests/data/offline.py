# SPDX-License-Identifier: Apache-2.0
"""A program prefix that hides TensorFlow and records attempts to use the network."""

WITHOUT_TENSORFLOW_AND_NETWORK = """
import sys
from importlib.machinery import PathFinder

def find_no_tensorflow(name, *arguments, find_spec=PathFinder.find_spec):
    return None if name == "tensorflow" else find_spec(name, *arguments)

PathFinder.find_spec = find_no_tensorflow
attempts = []

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        attempts.append((event, arguments))
        raise OSError("no network in this test")

sys.addaudithook(no_network)
"""
