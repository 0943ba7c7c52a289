// The events of one container, into the app's queue: tried for a day, then kept as dead letters.
param topicName string
param container string
param storageId string
param accountId string
param eventQueue string
param deadLetterContainer string

resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' existing = {
  name: topicName

  resource fedplane 'eventSubscriptions' = {
    name: 'fedplane-${container}'
    properties: {
      eventDeliverySchema: 'EventGridSchema'
      deliveryWithResourceIdentity: {
        identity: { type: 'SystemAssigned' }
        destination: {
          endpointType: 'StorageQueue'
          properties: {
            resourceId: storageId
            queueName: eventQueue
            queueMessageTimeToLiveInSeconds: 604800
          }
        }
      }
      deadLetterWithResourceIdentity: {
        identity: { type: 'SystemAssigned' }
        deadLetterDestination: {
          endpointType: 'StorageBlob'
          properties: {
            resourceId: accountId
            blobContainerName: deadLetterContainer
          }
        }
      }
      filter: {
        subjectBeginsWith: '/blobServices/default/containers/${container}/'
        isSubjectCaseSensitive: true
        includedEventTypes: [
          'Microsoft.Storage.BlobCreated'
          'Microsoft.Storage.BlobDeleted'
          'Microsoft.Storage.BlobRenamed'
          'Microsoft.Storage.BlobTierChanged'
          'Microsoft.Storage.DirectoryRenamed'
          'Microsoft.Storage.DirectoryDeleted'
        ]
      }
      retryPolicy: {
        maxDeliveryAttempts: 30
        eventTimeToLiveInMinutes: 1440
      }
    }
  }
}
