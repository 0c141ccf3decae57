/** `tfjs-lora/serve`, in Node: serves a model through OpenAI's API. */
export {type ModelServer, type RequestReport, type ServeOptions, serveModel} from './serveModel.ts';
