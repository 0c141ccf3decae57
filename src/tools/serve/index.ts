/** `tfjs-lora/serve`, in Node: a model behind OpenAI's API. */
export {type ModelServer, type RequestReport, type ServeOptions, serveModel} from './serveModel.ts';
