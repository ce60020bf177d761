// Asks a server through a client that is made of the .proto files; writes what it heard as JSON.
//
//     node client.js 127.0.0.1:7431 ../../proto

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, folder] = process.argv.slice(2);
const definition = loader.loadSync("loradock/v1/inference_service.proto", {
  includeDirs: [folder],
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).loradock.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure());

const asked = (target) => ({
  target,
  prompt: { text: "hello there" },
  sampling: { maxTokens: 12 },
});
const deadline = () => ({ deadline: Date.now() + 20_000 });

const generate = (target) =>
  new Promise((resolve, reject) =>
    client.generate(asked(target), deadline(), (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );

async function pieces(target) {
  const events = [];
  for await (const event of client.streamGenerate(asked(target), deadline())) {
    events.push(event);
  }
  return events;
}

async function refusal(target) {
  const error = await generate(target).then(
    () => Promise.reject(new Error("somebody answered")),
    (refused) => refused,
  );
  const [details] = error.metadata.get("grpc-status-details-bin");
  return { code: grpc.status[error.code], details: details.toString("base64") };
}

console.log(
  JSON.stringify({
    whole: await generate({ base: true }),
    pieces: await pieces({ base: true }),
    refusal: await refusal({ adapter: "unheard-of" }),
  }),
);
client.close();
