"""A generic client. It has no proto file, so it asks the server for the contract.

    reflect.py 127.0.0.1:50051                            list the services and their methods
    reflect.py 127.0.0.1:50051 SERVICE/METHOD '{"…": …}'  make a unary call, with this JSON
"""

import sys

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, Parse
from google.protobuf.message_factory import GetMessageClass

# grpcio ships the messages of v1alpha, which differ from those of v1 only in their names.
from grpc_reflection.v1alpha import reflection_pb2 as reflection

SECONDS = 20


class Server:
    def __init__(self, channel):
        self.channel = channel
        self.pool = DescriptorPool()

    def ask(self, **question):
        """Returns the response to one request. Ends the program if it is an error."""
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection.ServerReflectionResponse.FromString,
        )
        response = next(call(iter([reflection.ServerReflectionRequest(**question)]), timeout=SECONDS))
        if response.HasField("error_response"):
            sys.exit(f"error: {response.error_response.error_message!r}")
        return response

    def services(self):
        return sorted(s.name for s in self.ask(list_services="").list_services_response.service)

    def service(self, name):
        files = self.ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto
        for file in files:
            self.pool.Add(FileDescriptorProto.FromString(file))
        return self.pool.FindServiceByName(name)

    def call(self, path, text):
        service, method = path.split("/")
        method = self.service(service).methods_by_name[method]
        request = Parse(text, GetMessageClass(method.input_type)(), descriptor_pool=self.pool)
        call = self.channel.unary_unary(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return MessageToDict(call(request, timeout=SECONDS), descriptor_pool=self.pool)


def main():
    address, *rest = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        server = Server(channel)
        if rest:
            print(server.call(*rest))
            return
        for name in server.services():
            line = f"{name}: {', '.join(sorted(server.service(name).methods_by_name))}"
            # Escapes the characters that a terminal would obey or hide.
            print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))


if __name__ == "__main__":
    main()
